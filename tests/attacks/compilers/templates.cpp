// Templates that make the compiler work for ever: each needs two others.
template <int Depth, long Path> struct Tree {
    static constexpr long value = Tree<Depth - 1, Path * 2>::value + Tree<Depth - 1, Path * 2 + 1>::value;
};
template <long Path> struct Tree<0, Path> {
    static constexpr long value = Path;
};
int main() { return Tree<40, 0>::value; }
