// What the kernel counts for each user: `hold` takes as much of it as it can get, `probe` says what is left to another.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PIPES = 1100, MOST = 100000 };

static int watch_everything(void) {
    int watches = 0, instance = inotify_init1(0);
    char path[64];
    while (instance >= 0 && watches < 500) {
        snprintf(path, sizeof path, "w%d", watches);
        int file = open(path, O_CREAT | O_WRONLY, 0600);
        if (file < 0) break;
        close(file);
        if (inotify_add_watch(instance, path, IN_ALL_EVENTS) < 0) break;
        watches++;
    }
    return watches;
}

static int queue(int number) {
    char name[64];
    snprintf(name, sizeof name, "/queue-%d", number);
    struct mq_attr attributes = {.mq_maxmsg = 10, .mq_msgsize = 8192};
    return mq_open(name, O_CREAT | O_RDWR, 0600, &attributes);
}

static int old_queue(void) { return msgget(IPC_PRIVATE, IPC_CREAT | 0600); }

static long key(int number) {
    char name[64];
    snprintf(name, sizeof name, "key-%d", number);
    return syscall(SYS_add_key, "user", name, "secret", 6, -3 /* of the session */);
}

static int hold(void) {
    int ends[2], pipes = 0, instances = 0, queues = 0, old_queues = 0, keys = 0;
    int watches = watch_everything();
    while (pipes < PIPES && pipe(ends) == 0) pipes++;
    while (instances < MOST && inotify_init1(0) >= 0) instances++;
    while (queues < MOST && queue(queues) >= 0) queues++;
    while (old_queues < MOST && old_queue() >= 0) old_queues++;
    while (keys < MOST && key(keys) >= 0) keys++;
    printf("holding pipes %d watches %d instances %d queues %d old_queues %d keys %d\n", pipes, watches, instances, queues,
           old_queues, keys);
    fflush(stdout);
    for (;;) pause();
}

static const char *came(long result) { return result >= 0 ? "ok" : strerror(errno); }

static int probe(void) {
    int ends[2], instance = inotify_init1(0);
    if (pipe(ends) != 0) return 1;
    printf("pipe %d\n", fcntl(ends[1], F_GETPIPE_SZ));
    printf("instance %s\n", came(instance));
    printf("watch %s\n", came(inotify_add_watch(instance, ".", IN_ALL_EVENTS)));
    printf("queue %s\n", came(queue(0)));
    printf("old_queue %s\n", came(old_queue()));
    printf("key %s\n", came(key(0)));
    return 0;
}

int main(int count, char **arguments) {
    return count > 1 && strcmp(arguments[1], "hold") == 0 ? hold() : probe();
}
