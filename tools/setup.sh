#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What the Makefile needs on a bare Debian 12. build (the default, `make demo`): packages, bpffs;
# check: also the tests' tools and pinned Python clients; bench: also what we compare with.
# Installs only what is missing; a stamp makes a second run instant.
# Without root it says what is missing and goes on: every later step copes with what there is.
set -u
cd "$(dirname "$0")/.." || exit 1

BUILD="gcc make libc6-dev pkg-config clang-19 llvm-19 bpftool libbpf-dev libelf-dev zlib1g-dev
	libnl-3-dev libnl-route-3-dev liburing-dev libxxhash-dev libjansson-dev libyaml-dev
	libzmq3-dev libmsgpack-dev liburcu-dev python3 curl"
CHECK="libclang-rt-19-dev clang-format-19 libcmocka-dev libyajl-dev gcc-aarch64-linux-gnu
	libc6-dev-arm64-cross python3-venv python3-yaml mandoc man-db prometheus logrotate jq"
BENCH="haproxy nginx-light libyajl-dev"

group=${1:-build}
case $group in
build) want=$BUILD ;;
check) want="$BUILD $CHECK" ;;
bench) want="$BUILD $BENCH" ;;
*)
	echo "usage: tools/setup.sh [build|check|bench]" >&2
	exit 2
	;;
esac

say() { printf 'setup: %s\n' "$*"; }

mount_bpffs() {
	grep -q ' /sys/fs/bpf bpf ' /proc/mounts && return
	if [ "$(id -u)" != 0 ]; then
		say "bpffs is not mounted and we are not root: the BPF tests will be skipped"
	elif mount -t bpf bpf /sys/fs/bpf 2>/dev/null; then
		say "mounted bpffs at /sys/fs/bpf"
	else
		say "bpffs cannot be mounted here: the BPF tests will be skipped"
	fi
}

install_packages() {
	local missing="" p
	for p in $want; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q ' installed$' ||
			missing="$missing $p"
	done
	[ -z "$missing" ] && return 0
	if [ "$(id -u)" != 0 ]; then
		say "not root; these packages are missing:$missing"
		return 1
	fi
	say "installing:$missing"
	export DEBIAN_FRONTEND=noninteractive
	# Installed services must not start: they would sit on ports.
	local policy=/usr/sbin/policy-rc.d made=""
	[ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1; }
	{ apt-get -qq update && apt-get -qq -y --no-install-recommends install $missing; } \
		>build/setup.log 2>&1
	local status=$?
	[ -n "$made" ] && rm -f $policy
	[ $status = 0 ] || say "apt-get failed, see build/setup.log; going on with what is here"
	return $status
}

# The official OpenAI SDK and the Prometheus parser, pinned with hashes, into build/venv.
install_python() {
	local req=tests/e2e/requirements.txt
	[ -f $req ] || return 0
	[ -f build/venv/.done ] && [ ! $req -nt build/venv/.done ] && return 0
	python3 -m venv build/venv >build/venv.log 2>&1 &&
		build/venv/bin/pip install -q --disable-pip-version-check --require-hashes -r $req \
			>>build/venv.log 2>&1 && touch build/venv/.done && return 0
	say "the Python clients cannot be installed (build/venv.log): SDK tests will be skipped"
	return 1
}

mkdir -p build
mount_bpffs
stamp=build/.setup-$group
[ -f $stamp ] && [ ! tools/setup.sh -nt $stamp ] && [ ! tests/e2e/requirements.txt -nt $stamp ] && exit 0
ok=1
install_packages || ok=0
[ "$group" != check ] || install_python || ok=0
[ $ok = 1 ] && touch $stamp
exit 0
