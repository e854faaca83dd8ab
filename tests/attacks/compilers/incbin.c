/* Has the assembler take files of the machine into the program: FILE is which. */
__asm__(".data\n.global taken\ntaken: .incbin \"" FILE "\"\n.byte 0\n");
extern const char taken[];
int puts(const char *);
int main(void) { puts(taken); }
