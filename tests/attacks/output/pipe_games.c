/* Turns the pipes of its standard streams against whoever holds their other ends. */
#include "report.h"
#include <poll.h>
#include <sys/ioctl.h>

int main(void) {
    say_result("resize", fcntl(1, F_SETPIPE_SZ, 4096));
    say_result("own", fcntl(1, F_SETOWN, 1));
    say_result("signal", fcntl(1, F_SETSIG, SIGKILL));
    say_result("lease", fcntl(1, F_SETLEASE, F_WRLCK));
    say_result("notify", fcntl(1, F_NOTIFY, DN_ACCESS));
    /* Reads back what it has written, before the other side can. */
    int back = open("/proc/self/fd/1", O_RDONLY | O_NONBLOCK);
    say_result("open stdout for reading", back);
    int feed = open("/proc/self/fd/0", O_WRONLY | O_NONBLOCK);
    say_result("open stdin for writing", feed);
    char byte = 0;
    say_that("feed itself", "%zd", write(feed, "z", 1));
    say_that("is fed", "%zd", read(0, &byte, 1));
    close(feed);
    close(back);
    fcntl(0, F_SETFL, O_NONBLOCK);
    fcntl(2, F_SETFL, O_NONBLOCK);
    int sent = 0;
    say_result("descriptor", ioctl(2, FIONREAD, &sent));
    say("alive", "yes");
}
