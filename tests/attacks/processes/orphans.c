/* A thousand orphans that end at once: PID 1 must take each, or the processes run out. */
#include "report.h"

/* Forks, however long that must be waited for. */
static pid_t insist(void) {
    for (int tries = 0; tries < 20000; tries++) {
        pid_t pid = fork();
        if (pid >= 0)
            return pid;
        usleep(1000);
    }
    say("orphans", name_of(errno));
    _exit(1);
}

int main(void) {
    for (int count = 0; count < 1000; count++) {
        pid_t child = insist();
        if (child == 0) {
            insist();
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    say("orphans", "all taken");
}
