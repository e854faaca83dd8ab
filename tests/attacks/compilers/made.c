/* What compilers/Makefile makes. */
#include "report.h"

int main(void) {
    say("program", "genuine");
}
