// Has no type `strin`: compile_error, with what the compiler says.
#include <string>

int main() {
    std::strin greeting = "Hello, world!";
}
