/* Sets the clock, takes a higher priority, and raises the limits that it was given. */
#include "report.h"
#include <linux/ioprio.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>

static int raise_limit(int resource) {
    struct rlimit limit;
    getrlimit(resource, &limit);
    if (limit.rlim_max == RLIM_INFINITY)
        return errno = ENOTSUP, -1;
    limit.rlim_cur = limit.rlim_max += 1;
    return setrlimit(resource, &limit);
}

static int schedule(int policy) {
    struct sched_param parameters = {.sched_priority = policy == SCHED_BATCH ? 0 : 1};
    return sched_setscheduler(0, policy, &parameters);
}

static long schedule_by_deadline(void) {
    struct { unsigned size, policy; unsigned long flags; int nice; unsigned priority; unsigned long runtime, deadline, period; } attributes
        = {48, 6, 0, 0, 0, 10000000, 10000000, 10000000};
    return syscall(SYS_sched_setattr, 0, &attributes, 0);
}

static int adjust(void) {
    struct timex times = {.modes = ADJ_FREQUENCY, .freq = 1};
    return adjtimex(&times);
}

int main(void) {
    struct timeval time = {1000000000, 0};
    struct timespec precise = {1000000000, 0};
    TRY("settimeofday", settimeofday(&time, NULL));
    TRY("clock_settime", clock_settime(CLOCK_REALTIME, &precise));
    TRY("adjtimex", adjust());
    TRY("clock_adjtime", syscall(SYS_clock_adjtime, CLOCK_REALTIME, &(struct timex){.modes = ADJ_FREQUENCY, .freq = 1}));
    TRY("priority of its own", setpriority(PRIO_PROCESS, 0, -20));
    TRY("nice", nice(-1));
    TRY("fifo", schedule(SCHED_FIFO));
    TRY("round robin", schedule(SCHED_RR));
    TRY("deadline", schedule_by_deadline());
    TRY("real time disk", syscall(SYS_ioprio_set, 1, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_RT, 0)));
    TRY("RLIMIT_CPU", raise_limit(RLIMIT_CPU));
    TRY("RLIMIT_STACK", raise_limit(RLIMIT_STACK));
    TRY("RLIMIT_NOFILE", raise_limit(RLIMIT_NOFILE));
    TRY("RLIMIT_FSIZE", raise_limit(RLIMIT_FSIZE));
    TRY("RLIMIT_CORE", raise_limit(RLIMIT_CORE));
    TRY("RLIMIT_MEMLOCK", raise_limit(RLIMIT_MEMLOCK));
    TRY("RLIMIT_MSGQUEUE", raise_limit(RLIMIT_MSGQUEUE));
    TRY("RLIMIT_NICE", raise_limit(RLIMIT_NICE));
    TRY("RLIMIT_RTPRIO", raise_limit(RLIMIT_RTPRIO));
}
