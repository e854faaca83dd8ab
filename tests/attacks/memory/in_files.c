/* Takes memory by files in memory: writes to the directory that is its argument until it is killed. */
#include "report.h"

int main(int count, char **arguments) {
    static char block[1 << 20];
    memset(block, 1, sizeof block);
    for (int number = 0; count == 2; number++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%d", arguments[1], number);
        int file = open(path, O_CREAT | O_WRONLY, 0600);
        for (int blocks = 0; blocks < 8; blocks++)
            if (write(file, block, sizeof block) != sizeof block) {
                say_result("write", -1);
                return 1;
            }
        close(file);
    }
}
