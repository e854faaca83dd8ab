/* Takes memory by System V segments, which outlive their makers. */
#include "report.h"
#include <sys/shm.h>

int main(void) {
    for (int count = 0;; count++) {
        int id = shmget(IPC_PRIVATE, 4 << 20, IPC_CREAT | 0600);
        char *memory = id < 0 ? (char *)-1 : shmat(id, NULL, 0);
        if (memory == (char *)-1) {
            say_result("shared memory", -1);
            return 1;
        }
        memset(memory, 1, 4 << 20);
        shmdt(memory);
    }
}
