/* Turns on PID 1, of which it may be the same user: makes it the last to be scheduled, ties it down, limits what it may use. Then it
 * ends, and leaves children that never let go of the processor: who buries them? */
#include "report.h"
#include <sched.h>
#include <sys/resource.h>

int main(void) {
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    struct rlimit little = {1, 1}, nothing = {0, 0};
    say_result("priority of 1", setpriority(PRIO_PROCESS, 1, 19));
    say_result("priority of everybody", setpriority(PRIO_USER, 0, 19));
    say_result("priority of the group", setpriority(PRIO_PGRP, 0, 19));
    say_result("idle class of 1", sched_setscheduler(1, SCHED_IDLE, &(struct sched_param){0}));
    say_result("processor of 1", sched_setaffinity(1, sizeof first, &first));
    say_result("CPU time of 1", prlimit(1, RLIMIT_CPU, &little, NULL));
    say_result("files of 1", prlimit(1, RLIMIT_NOFILE, &nothing, NULL));
    say_result("memory of 1", prlimit(1, RLIMIT_AS, &nothing, NULL));
    say_result("signals of 1", prlimit(1, RLIMIT_SIGPENDING, &nothing, NULL));
    for (int count = 0; count < 20; count++)
        if (fork() == 0) {
            setsid();
            for (;;)
                signal(SIGTERM, SIG_IGN);
        }
    return 0;
}
