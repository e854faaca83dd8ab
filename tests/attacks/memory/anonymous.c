/* Takes memory until it is killed, having asked first that another one be killed in its place. */
#include "report.h"

int main(void) {
    int file = open("/proc/self/oom_score_adj", O_WRONLY);
    say_result("spare me", write(file, "-1000", 5));
    for (;;) {
        char *block = malloc(1 << 20);
        if (block)
            memset(block, 1, 1 << 20);
    }
}
