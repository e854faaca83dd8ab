/* Every kind of socket that could lead to a network, to the kernel or to another container, and every way to make an interface. */
#include "report.h"
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static const struct {
    const char *name;
    int family, type, protocol;
} kinds[] = {
    {"packet", AF_PACKET, SOCK_RAW, 0x300},
    {"packet datagram", AF_PACKET, SOCK_DGRAM, 0x300},
    {"raw icmp", AF_INET, SOCK_RAW, IPPROTO_ICMP},
    {"raw ip", AF_INET, SOCK_RAW, IPPROTO_RAW},
    {"raw ip6", AF_INET6, SOCK_RAW, IPPROTO_RAW},
    {"vsock", 40, SOCK_STREAM, 0},
    {"vsock datagram", 40, SOCK_DGRAM, 0},
    {"crypto", 38 /* AF_ALG */, SOCK_SEQPACKET, 0},
    {"xdp", 44, SOCK_RAW, 0},
    {"key", AF_KEY, SOCK_RAW, 2},
    {"bluetooth", AF_BLUETOOTH, SOCK_RAW, 1},
    {"can", AF_CAN, SOCK_RAW, 1},
    {"tipc", AF_TIPC, SOCK_RDM, 0},
    {"rds", AF_RDS, SOCK_SEQPACKET, 0},
    {"smc", 43, SOCK_STREAM, 0},
    {"kcm", AF_KCM, SOCK_DGRAM, 0},
    {"qrtr", AF_QIPCRTR, SOCK_DGRAM, 0},
    {"nfc", AF_NFC, SOCK_SEQPACKET, 0},
    {"pppox", AF_PPPOX, SOCK_STREAM, 0},
    {"x25", AF_X25, SOCK_SEQPACKET, 0},
    {"sctp", AF_INET, SOCK_STREAM, 132},
    {"netlink audit", AF_NETLINK, SOCK_RAW, NETLINK_AUDIT},
    {"netlink netfilter", AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER},
    {"netlink uevent", AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT},
    {"netlink xfrm", AF_NETLINK, SOCK_RAW, NETLINK_XFRM},
};

static int reach(const char *address, int port, int type) {
    int file = socket(AF_INET, type | SOCK_NONBLOCK, 0);
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &there.sin_addr);
    int result = connect(file, (struct sockaddr *)&there, sizeof there);
    return result;
}

static int reach6(const char *address) {
    int file = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in6 there = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
    inet_pton(AF_INET6, address, &there.sin6_addr);
    return connect(file, (struct sockaddr *)&there, sizeof there);
}

/* An address without a file: what a daemon of the host may listen on. */
static int reach_abstract(const char *name) {
    struct sockaddr_un there = {.sun_family = AF_UNIX};
    strcpy(there.sun_path + 1, name);
    return connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&there, sizeof(sa_family_t) + 1 + strlen(name));
}

static int change_interface(int request, const char *name) {
    struct ifreq interface = {.ifr_flags = IFF_UP | IFF_RUNNING};
    strcpy(interface.ifr_name, name);
    return ioctl(socket(AF_INET, SOCK_DGRAM, 0), request, &interface);
}

static int lines_of(const char *path) {
    int lines = -1; /* The first one is a title. */
    FILE *file = fopen(path, "r");
    for (int c; file && (c = fgetc(file)) != EOF;)
        lines += c == '\n';
    return file ? lines : 0;
}

static void list_interfaces(void) {
    struct ifaddrs *first = NULL;
    char names[256] = "";
    say_result("getifaddrs", getifaddrs(&first));
    for (struct ifaddrs *it = first; it; it = it->ifa_next)
        if (it->ifa_addr && it->ifa_addr->sa_family == AF_INET)
            strcat(names, it->ifa_name);
    say("addresses", names);
}

int main(void) {
    say_that("unix sockets there", "%d", lines_of("/proc/net/unix"));
    for (size_t index = 0; index < sizeof kinds / sizeof *kinds; index++)
        say_result(kinds[index].name, socket(kinds[index].family, kinds[index].type, kinds[index].protocol));
    list_interfaces();
    say_result("name server", reach("1.1.1.1", 53, SOCK_DGRAM));
    say_result("internet", reach("93.184.216.34", 80, SOCK_STREAM));
    say_result("Docker's bridge", reach("172.17.0.1", 4222, SOCK_STREAM));
    say_result("metadata service", reach("169.254.169.254", 80, SOCK_STREAM));
    say_result("internet 6", reach6("2606:4700:4700::1111"));
    struct addrinfo *found;
    say("name", getaddrinfo("example.com", "80", NULL, &found) == 0 ? "found" : "not found");
    say_result("interface down", change_interface(SIOCSIFFLAGS, "lo"));
    say_result("new address", change_interface(SIOCSIFADDR, "lo"));
    say_result("new name", change_interface(SIOCSIFNAME, "lo"));
    say_result("new tunnel", open("/dev/net/tun", O_RDWR));
    say_result("containerd", reach_abstract("/containerd-shim/moby/shim.sock"));
    say_result("X", reach_abstract("/tmp/.X11-unix/X0"));
}
