/* Takes memory by POSIX shared memory. */
#include "report.h"
#include <sys/mman.h>

int main(void) {
    for (int count = 0;; count++) {
        char name[32];
        snprintf(name, sizeof name, "/bomb%d", count);
        int file = shm_open(name, O_CREAT | O_RDWR, 0600);
        if (ftruncate(file, 4 << 20) < 0) {
            say_result("ftruncate", -1);
            return 1;
        }
        char *memory = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        memset(memory, 1, 4 << 20);
        close(file);
    }
}
