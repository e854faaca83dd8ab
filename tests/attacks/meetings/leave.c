/* Leaves something for the tenant's next submission in every place that outlives a process: files, shared memory, queues,
 * semaphores, keys, ports and sockets, the network's own memory. The next submission looks for it (next.py). */
#include "report.h"
#include <arpa/inet.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>

/* The port is below those that the kernel gives to connections: else the next program's could get it, and meet itself. */
enum { KEY = 0x4d454554, PORT = 17047 };

static int leave_file(const char *path) {
    int file = open(path, O_CREAT | O_WRONLY, 0666);
    return write(file, "left", 4) == 4 ? 0 : -1;
}

static int leave_shared_memory(void) {
    char *memory = shmat(shmget(KEY, 4096, IPC_CREAT | 0666), NULL, 0);
    return memory == (char *)-1 ? -1 : (strcpy(memory, "left"), 0);
}

static int leave_message(void) {
    struct { long type; char text[4]; } message = {1, "left"};
    return msgsnd(msgget(KEY, IPC_CREAT | 0666), &message, sizeof message.text, IPC_NOWAIT);
}

static int leave_posix_memory(void) {
    int file = shm_open("/envicutor-meet", O_CREAT | O_RDWR, 0666);
    return write(file, "left", 4) == 4 ? 0 : -1;
}

static int leave_queue(void) {
    struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 8};
    return mq_open("/envicutor-meet", O_CREAT | O_RDWR, 0666, &attributes);
}

static int listen_abstract(void) {
    struct sockaddr_un here = {.sun_family = AF_UNIX, .sun_path = "\0envicutor-meet"};
    int file = socket(AF_UNIX, SOCK_STREAM, 0);
    return bind(file, (struct sockaddr *)&here, sizeof(sa_family_t) + 15) < 0 ? -1 : listen(file, 8);
}

static struct sockaddr_in here(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    return address;
}

/* A connection that is closed at the listener's side first leaves its port in TIME_WAIT. */
static int leave_port(void) {
    struct sockaddr_in address = here();
    int listener = socket(AF_INET, SOCK_STREAM, 0), caller = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 8) < 0)
        return -1;
    if (connect(caller, (struct sockaddr *)&address, sizeof address) < 0)
        return -1;
    int accepted = accept(listener, NULL, NULL);
    close(accepted);
    close(caller);
    return accepted < 0 ? -1 : 0;
}

/* Counted by the loopback interface, in as many packets as the message says. */
static int leave_count(void) {
    struct sockaddr_in address = here();
    int file = socket(AF_INET, SOCK_DGRAM, 0);
    bind(file, (struct sockaddr *)&address, sizeof address);
    for (int count = 0; count < 42; count++)
        if (sendto(file, "left", 4, 0, (struct sockaddr *)&address, sizeof address) < 0)
            return -1;
    return 0;
}

/* A label of the network's sixth version, which stays for a while after its owner. */
static int leave_label(void) {
    struct { struct in6_addr there; uint32_t label; uint8_t action, share; uint16_t flags, expires, linger; uint32_t none; } request
        = {.there = IN6ADDR_LOOPBACK_INIT, .label = htonl(0x4d454), .share = 255, .flags = 1 /* create */, .expires = 100, .linger = 100};
    return setsockopt(socket(AF_INET6, SOCK_DGRAM, 0), IPPROTO_IPV6, 32 /* IPV6_FLOWLABEL_MGR */, &request, sizeof request);
}

/* Of a file that every submission has. */
static int leave_lock(void) { return flock(open("/etc/passwd", O_RDONLY), LOCK_EX | LOCK_NB); }

int main(int count, char **arguments) {
    say_result("file in /work", leave_file("/work/left"));
    say_result("file in /tmp", leave_file("/tmp/left"));
    say_result("file in /dev/shm", leave_file("/dev/shm/left"));
    say_result("System V memory", leave_shared_memory());
    say_result("System V message", leave_message());
    say_result("System V semaphore", semget(KEY, 1, IPC_CREAT | 0666));
    say_result("POSIX memory", leave_posix_memory());
    say_result("POSIX queue", leave_queue());
    say_result("packets", leave_count());
    say_result("label", leave_label());
    if (count > 1 && strcmp(arguments[1], "quietly") == 0)
        return 0;
    say_result("port", leave_port());
    say_result("abstract socket", listen_abstract());
    say_result("lock", leave_lock());
    if (fork() == 0) {
        setsid();
        for (;;) /* Holds the sockets and the lock. */
            pause();
    }
    return 0;
}
