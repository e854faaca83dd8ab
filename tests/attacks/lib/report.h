/* What an attack says: a line `what=result` for each thing that it tries. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((unused)) static void say(const char *what, const char *result) {
    dprintf(1, "%s=%s\n", what, result);
}

__attribute__((unused, format(printf, 2, 3))) static void say_that(const char *what, const char *format, ...) {
    char result[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(result, sizeof result, format, arguments);
    va_end(arguments);
    say(what, result);
}

/* An error's name, ok for 0. */
__attribute__((unused)) static const char *name_of(int error) {
    const char *name = error ? strerrorname_np(error) : "ok";
    return name ? name : "unknown";
}

__attribute__((unused)) static void say_result(const char *what, long result) {
    say(what, result == -1 ? name_of(errno) : "ok");
}

/* Says how a process ended: ok, an error's name from its exit code, or its signal's name. */
__attribute__((unused)) static void say_end(const char *what, int status) {
    if (WIFSIGNALED(status))
        say_that(what, "SIG%s", sigabbrev_np(WTERMSIG(status)));
    else
        say(what, name_of(WEXITSTATUS(status)));
}

/* Tries `call` in a process of its own, which may be changed or killed by it, and says what came of it. */
#define TRY(what, call)                                  \
    do {                                                 \
        pid_t child = fork();                            \
        if (child == 0) {                                \
            alarm(5);                                    \
            errno = 0;                                   \
            long result = (long)(call);                  \
            _exit(result == -1 ? errno : 0);             \
        }                                                \
        int status = 0;                                  \
        if (child < 0 || waitpid(child, &status, 0) < 0) \
            say(what, "untried");                        \
        else                                             \
            say_end(what, status);                       \
    } while (0)
