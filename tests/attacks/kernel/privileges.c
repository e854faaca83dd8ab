/* Looks for a privilege that it still has, and asks for more. */
#include "report.h"
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>

static void say_status(const char *field, const char *what) {
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status))
        if (strncmp(line, field, strlen(field)) == 0) {
            char *value = line + strlen(field) + 1;
            value += strspn(value, " \t");
            value[strcspn(value, "\n")] = 0;
            say(what, value);
        }
    fclose(status);
}

static long all_capabilities(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[2] = {{~0u, ~0u, ~0u}, {~0u, ~0u, ~0u}};
    return syscall(SYS_capset, &header, sets);
}

int main(void) {
    gid_t root = 0;
    say_status("CapInh:", "inheritable");
    say_status("CapPrm:", "permitted");
    say_status("CapEff:", "effective");
    say_status("CapAmb:", "ambient");
    say_status("NoNewPrivs:", "no new privileges");
    say_status("Seccomp:", "filter");
    say_status("Groups:", "groups");
    say("root", getuid() && geteuid() && getgid() && getegid() ? "no" : "yes");
    TRY("setuid", setuid(0));
    TRY("setreuid", setreuid(0, 0));
    TRY("setresuid", setresuid(0, 0, 0));
    TRY("setgid", setgid(0));
    TRY("setgroups", setgroups(1, &root));
    TRY("setfsuid", syscall(SYS_setfsuid, 0) == 0 || syscall(SYS_setfsuid, -1) == 0 ? 0 : (errno = EPERM, -1));
    TRY("capset", all_capabilities());
    TRY("raise ambient", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0));
    TRY("allow new privileges", prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
    TRY("securebits", prctl(PR_SET_SECUREBITS, 0, 0, 0, 0));
    TRY("no filter", prctl(PR_SET_SECCOMP, 0, NULL, 0, 0));
    TRY("personality", syscall(SYS_personality, 0x0040000 /* no randomization */) == -1 ? -1 : 0);
}
