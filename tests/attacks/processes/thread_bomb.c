/* Threads without end, each of which works. */
#include "report.h"
#include <pthread.h>

static void *work(void *none) {
    for (volatile long count = 0;; count++)
        ;
    return none;
}

int main(void) {
    int error = 0;
    while (!error) {
        pthread_t thread;
        error = pthread_create(&thread, NULL, work, NULL);
    }
    say("pthread_create", name_of(error));
    return 1;
}
