/* Is given more input than a pipe holds, and reads one byte of it. A child holds both ends of the pipe open. */
#include "report.h"

int main(void) {
    char byte;
    say_that("read", "%zd", read(0, &byte, 1));
    int back = open("/proc/self/fd/0", O_WRONLY | O_NONBLOCK);
    say_result("open stdin for writing", back);
    if (fork() == 0) {
        setsid();
        for (;;)
            pause();
    }
    usleep(200000);
    return 0;
}
