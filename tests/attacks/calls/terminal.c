/* Types into whoever's terminal this might be. */
#include "report.h"
#include <sys/ioctl.h>

int main(void) {
    char key = '\n', paste[] = {2};
    say_result("TIOCSTI stdin", ioctl(0, TIOCSTI, &key));
    say_result("TIOCSTI stdout", ioctl(1, TIOCSTI, &key));
    say_result("TIOCSTI stderr", ioctl(2, TIOCSTI, &key));
    say_result("TIOCLINUX", ioctl(0, TIOCLINUX, paste));
    say_result("TIOCCONS", ioctl(0, TIOCCONS));
    say_result("TIOCSCTTY", ioctl(0, TIOCSCTTY, 1));
    say_result("TIOCSETD", ioctl(0, TIOCSETD, &(int){3}));
    say_result("/dev/tty", open("/dev/tty", O_RDWR));
    say_result("/dev/console", open("/dev/console", O_RDWR));
    say_result("/proc/1/fd/0", open("/proc/1/fd/0", O_RDWR));
}
