/* Calls the kernel through the doors for other kinds of programs, whose numbers a filter may not know: 32 bit and x32. */
#include "report.h"
#include <sys/mman.h>

static long by_interrupt(long number) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(0), "c"(0), "d"(0) : "memory", "r8", "r9", "r10", "r11");
    return result < 0 && result > -4096 ? (errno = -result, -1) : result;
}

int main(void) {
    TRY("32 bit getpid", by_interrupt(20));
    TRY("32 bit unshare", by_interrupt(310) /* nothing to unshare */);
    TRY("32 bit mount", by_interrupt(21));
    TRY("x32 getpid", syscall(0x40000000 + SYS_getpid));
    TRY("x32 ptrace", syscall(0x40000000 + 521, 0, 0, 0, 0));
    TRY("no such call", syscall(1000));
    TRY("negative call", syscall(-1));
    long flags = 0;
    __asm__ volatile("pushfq; popq %0" : "=r"(flags));
    say("direction flag", flags & 0x400 ? "set" : "clear");
}
