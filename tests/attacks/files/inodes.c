/* Fills a directory with files of no size, links and directories, until there may be no more. */
#include "report.h"

int main(int count, char **arguments) {
    char path[256], first[256];
    snprintf(first, sizeof first, "%s/0", arguments[count - 1]);
    close(open(first, O_CREAT | O_WRONLY, 0600));
    for (int number = 1;; number++) {
        snprintf(path, sizeof path, "%s/%d", arguments[count - 1], number);
        int made = number % 4 == 0   ? link(first, path)
                   : number % 4 == 1 ? symlink(first, path)
                   : number % 4 == 2 ? mkdir(path, 0)
                                     : open(path, O_CREAT | O_WRONLY, 0);
        if (made < 0) {
            say_result("make", made);
            say_that("made", "%d", number);
            return 0;
        }
        if (made > 2)
            close(made);
    }
}
