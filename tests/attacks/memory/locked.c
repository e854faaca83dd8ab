/* Memory that cannot be taken back: locked, huge, secret. */
#include "report.h"
#include <sys/mman.h>
#include <sys/shm.h>

static void *map(int flags) {
    return mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

static int secret(void) {
    int file = syscall(SYS_memfd_secret, 0);
    if (file < 0)
        return -1;
    if (ftruncate(file, 8 << 20) < 0)
        return -1;
    return mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) == MAP_FAILED ? -1 : 0;
}

int main(void) {
    char *memory = map(0);
    TRY("mlock", mlock(memory, 8 << 20));
    TRY("mlock2", mlock2(memory, 8 << 20, MLOCK_ONFAULT));
    TRY("mlockall", mlockall(MCL_CURRENT | MCL_FUTURE));
    TRY("mmap locked", map(MAP_LOCKED));
    TRY("mmap huge", map(MAP_HUGETLB));
    TRY("shmget huge", shmget(IPC_PRIVATE, 8 << 20, SHM_HUGETLB | IPC_CREAT | 0600));
    TRY("shmctl lock", shmctl(shmget(IPC_PRIVATE, 8 << 20, IPC_CREAT | 0600), SHM_LOCK, NULL));
    TRY("memfd_secret", secret());
}
