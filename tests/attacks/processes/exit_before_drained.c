/* Ends with a pipe full of output that nobody has read yet, and a child that goes on writing. */
#include "report.h"

int main(void) {
    static char line[60001];
    memset(line, 'x', 60000);
    line[60000] = '\n';
    if (write(1, line, sizeof line) != sizeof line)
        return 1;
    if (fork() == 0) {
        setsid();
        signal(SIGPIPE, SIG_IGN);
        for (;;)
            if (write(1, "y", 1) != 1)
                usleep(100);
    }
    return 0;
}
