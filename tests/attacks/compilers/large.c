/* A program that is larger than any file may be. */
char large[1L << 33] = {1};
int main(void) { return large[5]; }
