/* Processes that hold each other: one that traces the other and never lets it go, not even at its end; one that waits for a
 * child that borrows its memory; one that executes itself from a thread while others do the same. */
#include "report.h"
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>

static void trace(void) {
    pid_t held = fork();
    if (held == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        for (;;)
            pause();
    }
    waitpid(held, NULL, 0);
    ptrace(PTRACE_SETOPTIONS, held, NULL, PTRACE_O_TRACEEXIT | PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE);
    for (;;)
        pause();
}

static void borrow(void) {
    if (vfork() == 0)
        for (;;)
            pause();
}

static void *execute(void *path) {
    execl(path, path, "again", NULL);
    return NULL;
}

static void execute_for_ever(char *path) {
    pthread_t threads[4];
    for (int count = 0; count < 4; count++)
        pthread_create(&threads[count], NULL, execute, path);
    for (;;)
        pause();
}

int main(int count, char **arguments) {
    static void (*const kinds[])(void) = {trace, borrow};
    if (count > 1)
        execute_for_ever(arguments[0]);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (int kind = 0; kind < 3; kind++)
        if (fork() == 0) {
            setsid();
            if (kind < 2)
                kinds[kind]();
            else
                execute_for_ever(arguments[0]);
        }
    usleep(100000);
    say("alive", "yes");
}
