/* Looks for what it was not meant to inherit: descriptors, a current directory of the host, memory, a terminal, signals. */
#include "report.h"
#include <dirent.h>

static void say_kind(int file) {
    char path[64], target[256] = "", what[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    if (readlink(path, target, sizeof target - 1) < 0)
        return;
    target[strcspn(target, ":[")] = 0;
    snprintf(what, sizeof what, "descriptor %d", file);
    say(what, target);
}

int main(void) {
    DIR *list = opendir("/proc/self/fd");
    int count = 0, open_ones = 0;
    while (readdir(list))
        count++;
    say_that("listed", "%d", count - 3 /* . and .. and the list */);
    closedir(list);
    for (int file = 0; file < 1 << 20; file++)
        if (fcntl(file, F_GETFD) != -1) {
            open_ones++;
            say_kind(file);
        }
    say_that("open", "%d", open_ones);
    char directory[256] = "", maps[1 << 16] = "";
    say("current directory", getcwd(directory, sizeof directory));
    int file = open("/proc/self/maps", O_RDONLY);
    for (ssize_t size, at = 0; (size = read(file, maps + at, sizeof maps - 1 - at)) > 0; at += size)
        ;
    say("mapped of the agent", strstr(maps, "envicutor") || strstr(maps, "agent") ? "something" : "nothing");
    say("leads its session", getsid(0) == getpid() ? "yes" : "no");
    say_result("terminal", open("/dev/tty", O_RDWR));
    for (int number = 3; number < 10; number++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d/../../../../../../etc/hostname", number);
        if (open(path, O_RDONLY) >= 0)
            say("a way out", path);
    }
    sigset_t blocked;
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    int odd = 0;
    for (int number = 1; number < 65; number++) {
        struct sigaction action;
        odd += sigismember(&blocked, number) == 1;
        odd += sigaction(number, NULL, &action) == 0 && action.sa_handler != SIG_DFL;
    }
    say_that("signals not at their default", "%d", odd);
}
