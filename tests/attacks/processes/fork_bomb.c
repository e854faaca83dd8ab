/* A fork bomb: every process forks for ever. The first one says what it is told at last. */
#include "report.h"

int main(void) {
    pid_t first = getpid();
    for (;;)
        if (fork() < 0 && getpid() == first) {
            say_result("fork", -1);
            return 1;
        }
}
