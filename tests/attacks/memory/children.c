/* Each of twelve children takes little, all together take more than there is. */
#include "report.h"

int main(void) {
    for (int count = 0; count < 12; count++)
        if (fork() == 0) {
            memset(malloc(10 << 20), 1, 10 << 20);
            pause();
        }
    pause();
}
