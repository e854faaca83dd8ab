/* Uses the processor where nobody looks: in grandchildren of sessions of their own, each too short to be seen, with the signal of
 * the limit ignored. Its first process only sleeps. */
#include "report.h"
#include <sys/resource.h>

static void burn(void) {
    for (volatile int count = 0; count < 1000000; count++)
        ;
}

int main(void) {
    signal(SIGXCPU, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    for (int count = 0; count < 2; count++)
        if (fork() == 0) {
            setsid();
            for (;;)
                if (fork() == 0) {
                    burn();
                    _exit(0);
                } else {
                    usleep(500);
                }
        }
    for (;;)
        pause();
}
