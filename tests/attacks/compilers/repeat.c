/* Few bytes that the assembler is to make into many. */
__asm__(".rept 2000000000\n.quad 1\n.endr\n");
int main(void) {}
