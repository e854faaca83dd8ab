/* Leaves memory to nobody: files without a name, held by messages in sockets that are held by the messages in each other. */
#include "report.h"
#include <sys/mman.h>
#include <sys/socket.h>

static void pass(int socket, int file) {
    char byte = 0, control[CMSG_SPACE(sizeof file)] = {0};
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof file);
    memcpy(CMSG_DATA(header), &file, sizeof file);
    if (sendmsg(socket, &message, MSG_DONTWAIT) < 0)
        say_result("sendmsg", -1);
}

int main(void) {
    static char block[1 << 20];
    memset(block, 1, sizeof block);
    for (int count = 0; count < 16; count++) {
        int pair[2], file = memfd_create("left", 0);
        if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) < 0)
            say_result("socketpair", -1);
        for (int blocks = 0; blocks < 8; blocks++)
            if (write(file, block, sizeof block) < 0)
                say_result("write", -1);
        pass(pair[0], file);
        pass(pair[0], pair[0]);
        pass(pair[1], pair[0]);
        pass(pair[0], pair[1]);
        close(file);
    }
    say("in flight", "128 MiB");
}
