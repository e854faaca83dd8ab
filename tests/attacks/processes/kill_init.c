/* Has the kernel itself kill PID 1: takes all CPU time from it, and gives it as many dead to bury as it can. */
#include "report.h"
#include <sys/resource.h>
#include <time.h>

int main(void) {
    struct rlimit none = {0, 0};
    say_result("CPU time of 1", prlimit(1, RLIMIT_CPU, &none, NULL));
    for (time_t end = time(NULL) + 2; time(NULL) < end;) {
        pid_t child = fork();
        if (child == 0) {
            for (int count = 0; count < 8; count++)
                if (fork() == 0)
                    _exit(0);
            _exit(0);
        }
        if (child > 0)
            waitpid(child, NULL, 0);
    }
    return 0;
}
