/* Takes the kernel's memory by names of files that do not exist, of which it remembers each; and leaves it to others to pay for. */
#include "report.h"
#include <time.h>

int main(void) {
    char path[128];
    struct stat status;
    int found = 0;
    time_t end = time(NULL) + 2; /* Where file systems are slow, it is fewer. */
    for (int count = 0; count < 200000 && time(NULL) < end; count++) {
        snprintf(path, sizeof path, "/usr/a-name-that-nobody-else-asks-for-%d-%d", getpid(), count);
        found += stat(path, &status) == 0;
    }
    say_that("found", "%d", found);
}
