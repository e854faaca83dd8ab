/* Writes to a directory until there is no room left. */
#include "report.h"

int main(int count, char **arguments) {
    static char block[64 << 10];
    memset(block, 1, sizeof block);
    long written = 0;
    for (int number = 0; count == 2; number++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%d", arguments[1], number);
        int file = open(path, O_CREAT | O_WRONLY, 0600);
        for (int blocks = 0; blocks < 64; blocks++) {
            ssize_t size = write(file, block, sizeof block);
            if (size < 0) {
                say_result("write", size);
                say_that("MiB", "%ld", written >> 20);
                return 0;
            }
            written += size;
        }
        close(file);
    }
}
