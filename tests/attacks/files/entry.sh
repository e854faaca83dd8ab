# A build makes of the program that is to be run what cannot be: its argument says what.
rm -f program
case $1 in
pipe) mkfifo program ;;
loop) ln -s program program ;;
directory) mkdir program ;;
itself) printf '#!./program\n' >program ;;
nothing) ;;
agent) ln -s /proc/self/exe program ;; # Who executes it is a copy of the agent.
interpreter) printf '#!/proc/self/exe\n' >program ;;
text) printf '\0\0\0\0' >program ;;
esac
[ -h program ] || [ ! -f program ] || chmod +x program
