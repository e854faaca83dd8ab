/* The compiler reads this file from within itself, twice each time. */
#include __FILE__
#include __FILE__
int main(void) {}
