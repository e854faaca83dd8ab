/* Takes memory by files without a name, which belong to no directory with a bound. */
#include "report.h"
#include <sys/mman.h>

int main(void) {
    static char block[1 << 20];
    memset(block, 1, sizeof block);
    for (;;) {
        int file = memfd_create("bomb", 0);
        if (file < 0)
            say_result("memfd_create", -1);
        for (int blocks = 0; blocks < 16; blocks++)
            if (write(file, block, sizeof block) < 0)
                say_result("write", -1);
    }
}
