# Runs as root in a container of the base image and makes a runtime of it: $1 is the definition's script (may be empty),
# the rest are packages. Started by bash -eu; the container is then committed.
script=$1
shift
export DEBIAN_FRONTEND=noninteractive

# Also for a script that calls apt itself. The proxy takes one request a connection; and who is root here could not end the
# processes of another user.
cat >/tmp/apt.conf <<'EOF'
APT::Sandbox::User "root";
Acquire::http::Pipeline-Depth "0";
Acquire::Languages "none";
Acquire::Retries "3";
EOF
export APT_CONFIG=/tmp/apt.conf

if [ $# -gt 0 ]; then
    # Packages link manual pages into it, Java's among them, and a slim base has none.
    mkdir -p /usr/share/man/man1
    apt-get -q update
    apt-get -q -y -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Use-Pty=0 install --no-install-recommends -- "$@"
fi
if [ -n "$script" ]; then
    bash -eu -o pipefail -c "$script"
fi

# Nothing that only another installation needs. Python's compiled files stay: a start without them is slow.
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/cache/ldconfig/aux-cache \
    /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /tmp/* /var/tmp/* /root/.cache
