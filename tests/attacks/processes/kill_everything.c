/* Signals to PID 1, to everybody at once, and to every process id that there can be. */
#include "report.h"

/* How many processes but this one take a signal. */
static int victims(int signal) {
    int count = 0;
    for (pid_t pid = 2; pid < 70000; pid++)
        if (pid != getpid() && kill(pid, signal) == 0)
            count++;
    return count;
}

int main(void) {
    static const int signals[] = {SIGKILL, SIGSTOP, SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGSEGV, SIGCONT};
    for (size_t index = 0; index < sizeof signals / sizeof *signals; index++) {
        char what[64];
        snprintf(what, sizeof what, "kill 1 SIG%s", sigabbrev_np(signals[index]));
        say_result(what, kill(1, signals[index]));
    }
    say_result("sigqueue 1", sigqueue(1, SIGRTMIN, (union sigval){0}));
    say_result("tgkill 1", syscall(SYS_tgkill, 1, 1, SIGKILL));
    int pidfd = syscall(SYS_pidfd_open, 1, 0);
    say_result("pidfd_open 1", pidfd);
    say_result("pidfd_send_signal 1", syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0));
    say_result("kill all", kill(-1, SIGKILL));
    say_that("others killed", "%d", victims(SIGKILL));
    say("alive", "yes");
}
