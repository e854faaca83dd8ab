/* Reads more files than there is memory: what the kernel keeps of them must neither end the program nor count as its own. */
#include "report.h"
#include <ftw.h>

static long total;

static int take(const char *path, const struct stat *status, int kind) {
    static char buffer[256 << 10];
    if (kind != FTW_F || !S_ISREG(status->st_mode) || total > 96 << 20)
        return 0;
    int file = open(path, O_RDONLY);
    for (ssize_t size; file >= 0 && (size = read(file, buffer, sizeof buffer)) > 0;)
        total += size;
    close(file);
    return 0;
}

int main(void) {
    ftw("/usr/lib/gcc", take, 16);
    ftw("/usr/lib", take, 16);
    say("read", total > 64 << 20 ? "more than the limit" : "too little");
}
