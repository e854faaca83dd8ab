/* Writes to both outputs for ever, and wants an event for each piece. */
#include "report.h"

int main(void) {
    static char block[64 << 10];
    memset(block, 'x', sizeof block);
    fork();
    for (int output = 1;; output = 3 - output)
        if (write(output, block, sizeof block) < 0)
            return 1;
}
