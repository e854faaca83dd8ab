/* Daemons that mean to live on: sessions of their own, every signal ignored, one that is never the same process for long. They
 * write wherever they can, and hold the output open. */
#include "report.h"
#include <sched.h>

static void ignore_everything(void) {
    for (int number = 1; number < 65; number++)
        signal(number, SIG_IGN);
}

static void leave_traces(void) {
    static const char *places[] = {"/work/survivor", "/tmp/survivor", "/dev/shm/survivor"};
    for (size_t index = 0; index < 3; index++) {
        int file = open(places[index], O_CREAT | O_APPEND | O_WRONLY, 0666);
        if (file >= 0 && write(file, "alive\n", 6) == 6)
            close(file);
    }
}

static void live_on(int hop) {
    if (fork() != 0)
        return;
    setsid();
    if (fork() != 0)
        _exit(0);
    ignore_everything();
    for (;;) {
        leave_traces();
        if (!hop)
            usleep(1000);
        else if (fork() > 0) /* The child lives on under another id. */
            _exit(0);
        else
            setsid();
    }
}

/* A child of its parent's: nobody here is told when it ends. */
static void live_on_beside(void) {
    if (syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, 0) == 0) {
        setsid();
        ignore_everything();
        for (;;)
            leave_traces();
    }
}

int main(void) {
    for (int count = 0; count < 4; count++)
        live_on(0);
    live_on(1);
    live_on_beside();
    pid_t stopped = fork();
    if (stopped == 0) {
        setpgid(0, 0);
        raise(SIGSTOP);
        for (;;)
            leave_traces();
    }
    usleep(100000);
    say_result("survivor at work", access("/tmp/survivor", F_OK));
    return 0;
}
