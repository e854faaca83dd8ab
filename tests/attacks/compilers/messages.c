/* The compiler has more to say than anybody wants to read. */
#define MANY(x) x x x x x x x x x x x x x x x x
#define LINE undeclared_name_that_is_rather_long_so_that_each_message_is_long + ;
int main(void) { MANY(MANY(MANY(MANY(LINE)))) }
