/* System calls that no program of a submission has any reason for: the machine's kernel, its modules, its ports. Its argument is
 * the one to do; without, all of them, each in a process of its own. */
#include "report.h"
#include <sys/io.h>
#include <sys/reboot.h>
#include <sys/swap.h>

static char page[4096];

static long kexec_load(void) { return syscall(SYS_kexec_load, 0L, 0L, NULL, 0L); }
static long kexec_file_load(void) { return syscall(SYS_kexec_file_load, -1, -1, 0L, "", 0L); }
static long init_module(void) { return syscall(SYS_init_module, page, sizeof page, ""); }
static long finit_module(void) { return syscall(SYS_finit_module, 0, "", 0); }
static long delete_module(void) { return syscall(SYS_delete_module, "none", O_NONBLOCK); }
/* Harmless where it is allowed: it asks to ignore Ctrl-Alt-Del. */
static long restart(void) { return reboot(RB_DISABLE_CAD); }
static long swap_on(void) { return swapon("/tmp/none", 0); }
static long swap_off(void) { return swapoff("/tmp/none"); }
static long level(void) { return iopl(3); }
static long ports(void) { return ioperm(0x80, 1, 1); }
static long account(void) { return acct("/tmp/none"); }
static long library(void) { return syscall(SYS_uselib, "/lib/none"); }

static const struct {
    const char *name;
    long (*call)(void);
} calls[] = {
    {"kexec_load", kexec_load}, {"kexec_file_load", kexec_file_load}, {"init_module", init_module}, {"finit_module", finit_module},
    {"delete_module", delete_module}, {"reboot", restart}, {"swapon", swap_on}, {"swapoff", swap_off}, {"iopl", level},
    {"ioperm", ports}, {"acct", account}, {"uselib", library},
};

int main(int count, char **arguments) {
    for (size_t index = 0; index < sizeof calls / sizeof *calls; index++)
        if (count < 2)
            TRY(calls[index].name, calls[index].call());
        else if (strcmp(arguments[1], calls[index].name) == 0)
            say_result(calls[index].name, calls[index].call());
}
