# Makes the root file system of a Debian base image in $WORK/root from the packages of this machine's own apt sources, for
# hosts where no registry answers. Nothing of the host is changed: apt's state, debootstrap itself and every mount are
# private to it. Needs: SUITE, WORK (an empty directory). A line "step: …" tells a step, "error: …" why it failed.
set -eu
exec 2>&1
umask 022
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

step() { echo "step: $*"; }
die() { echo "error: $*"; exit 1; }

if [ "${1-}" != inside ]; then
    [ "$(id -u)" = 0 ] || die "only root can bootstrap a Debian system; start the worker as root once"
    for tool in unshare apt-get apt-config dpkg-deb wget tar awk; do
        command -v "$tool" >/dev/null || die "$tool is not installed on this machine"
    done
    # Own process and mount namespaces: when the outer process is killed, every process and every mount is gone with it.
    exec unshare --mount --pid --fork --kill-child=KILL --mount-proc bash "$0" inside
fi

cd "$WORK"
mkdir -p cache/archives/partial lists/partial
apt=(-q -o Dir::Cache="$WORK/cache" -o APT::Sandbox::User=root)

# The archives that this machine has the suite from: "codename uri component", one a line.
archives() {
    apt-get "${apt[@]}" indextargets --format '$(CODENAME) $(REPO_URI) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
        awk -v suite="$SUITE" '$1 == suite || $1 == suite "-updates" || $1 == suite "-security"' | sort -u
}
refresh() {
    step "base image: reading the package lists"
    apt+=(-o Dir::State::lists="$WORK/lists")
    # Other sources of this machine may fail; what is needed is looked at after.
    apt-get "${apt[@]}" update || true
}

[ -n "$(archives)" ] || refresh
main=$(archives | awk -v suite="$SUITE" '$1 == suite && $3 == "main"' | head -n 1)
[ -n "$main" ] || die "this machine has no apt source for the suite $SUITE (runtimes.suite): add one under /etc/apt"
read -r _ mirror _ origin <<<"$main"
keyring=/usr/share/keyrings/${origin,,}-archive-keyring.gpg
[ -r "$keyring" ] || die "$keyring is missing: install ${origin,,}-archive-keyring"

debootstrap=$(command -v debootstrap || true)
if [ -z "$debootstrap" ]; then
    step "base image: fetching debootstrap"
    # Lists of this machine that are out of date name a package that is gone.
    apt-get "${apt[@]}" download debootstrap || { refresh && apt-get "${apt[@]}" download debootstrap; } ||
        die "the package debootstrap cannot be downloaded: install it"
    dpkg-deb -x debootstrap_*.deb debootstrap
    debootstrap=$WORK/debootstrap/usr/sbin/debootstrap
    export DEBOOTSTRAP_DIR=$WORK/debootstrap/usr/share/debootstrap
fi

# apt in the image verifies an https archive by these.
include=()
! archives | grep -q ' https:' || include=(--include=ca-certificates)
"$debootstrap" --variant=minbase --keyring="$keyring" "${include[@]}" "$SUITE" "$WORK/root" "$mirror" ||
    { tail -n 20 root/debootstrap/debootstrap.log 2>/dev/null || true; die "debootstrap failed"; }

step "base image: applying updates"
archives | awk '{ suites[$1 " " $2] = suites[$1 " " $2] " " $3 }
    END { for (at in suites) { split(at, part, " "); print "deb " part[2] " " part[1] suites[at] } }' |
    sort >root/etc/apt/sources.list
# No service starts in a container, and nobody reads manuals there.
printf '#!/bin/sh\nexit 101\n' >root/usr/sbin/policy-rc.d
chmod 755 root/usr/sbin/policy-rc.d
cat >root/etc/dpkg/dpkg.cfg.d/envicutor <<'EOF'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-include /usr/share/locale/locale.alias
EOF
mount -t proc proc root/proc
inside() { chroot root env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }
inside apt-get -q -o Acquire::Languages=none -o Acquire::Retries=3 update
inside apt-get -q -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io upgrade
inside apt-get clean
umount root/proc

step "base image: slimming"
find root/usr/share/doc -type f ! -name copyright -delete
find root/usr/share/doc -depth -type d -empty -delete
find root/usr/share/locale -mindepth 1 -maxdepth 1 ! -name locale.alias -exec rm -rf {} +
rm -rf root/usr/share/man/* root/usr/share/info/* root/var/lib/apt/lists/* root/var/cache/apt/* root/var/cache/debconf/*-old \
    root/var/lib/dpkg/*-old root/var/cache/ldconfig/aux-cache root/var/log/apt root/var/log/*.log root/etc/hostname \
    root/etc/machine-id root/tmp/* root/var/tmp/*
: >root/etc/resolv.conf
