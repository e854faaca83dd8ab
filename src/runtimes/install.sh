# Runs as root in a container of the base image and makes a runtime of it: $1 is the definition's script (may be empty),
# the rest are packages. Started by bash -eu; the container is then committed.
script=$1
shift
export DEBIAN_FRONTEND=noninteractive

if [ $# -gt 0 ]; then
    apt-get -q -o Acquire::Languages=none -o Acquire::Retries=3 update
    apt-get -q -y -o Acquire::Retries=3 -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Use-Pty=0 \
        install --no-install-recommends -- "$@"
fi
if [ -n "$script" ]; then
    bash -eu -o pipefail -c "$script"
fi

# Nothing that only another installation needs. Python's compiled files stay: a start without them is slow.
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/cache/ldconfig/aux-cache \
    /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /tmp/* /var/tmp/* /root/.cache
