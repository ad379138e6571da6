#!/bin/sh
# Installs tenantmesh on a machine with systemd, as docs/deploy.md says. It may be run again at any time: what is as it should
# be is left alone, and nothing is started, stopped or enabled. Configuration that is there is never changed.
set -eu

usage() {
	cat <<'USAGE'
usage: deploy/install.sh [options]
  --bin DIR      where tenantmesh and tenantmesh-sidecar are (default: bin of this checkout, which 'make build' makes)
  --envoy FILE   the Envoy to install (default: .tools/bin/envoy of this checkout, which 'make tools' fetches)
  --prefix DIR   where programs go: DIR/bin, DIR/lib/tenantmesh (default: /usr/local)
  --root DIR     install into a folder, as packagers and images do (default: this machine)
  --uninstall    stop and remove what was installed; configuration, users and data stay
  --purge        with --uninstall: remove configuration and data, too
  --dry-run      say what would be done, and do nothing
USAGE
}

fail() {
	echo "error: $1" >&2
	[ -z "${2-}" ] || echo "hint: $2" >&2
	exit "${3-1}"
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
bin=$here/../bin envoy=$here/../.tools/bin/envoy prefix=/usr/local root='' action=install dry='' purge=''
while [ $# -gt 0 ]; do
	case $1 in
	--bin | --envoy | --prefix | --root)
		[ -n "${2-}" ] || fail "$1 must have a value" "see 'deploy/install.sh --help'" 64
		case $1 in
		--bin) bin=$2 ;;
		--envoy) envoy=$2 ;;
		--prefix) prefix=${2%/} ;;
		--root) root=${2%/} ;;
		esac
		shift
		;;
	--uninstall) action=uninstall ;;
	--purge) purge=yes ;;
	--dry-run) dry=yes ;;
	-h | --help)
		usage
		exit
		;;
	*) fail "there is no option $1" "see 'deploy/install.sh --help'" 64 ;;
	esac
	shift
done
case $prefix in
/*[!A-Za-z0-9/._-]* | /) fail "--prefix must be a path of letters, digits and ._- below / (got $prefix)" '' 64 ;;
/*) ;;
*) fail "--prefix must be an absolute path (got $prefix)" '' 64 ;;
esac
case $root in
'' | /*) ;;
*) fail "--root must be an absolute path (got $root)" '' 64 ;;
esac
[ -z "$purge" ] || [ "$action" = uninstall ] || fail "--purge must come with --uninstall" '' 64
[ -n "$dry$root" ] || [ "$(id -u)" = 0 ] || fail "only root may change this machine" "run it with sudo, or with --dry-run, or into a folder with --root"

uid=1337 # of sidecars, in every form of deployment
units=/etc/systemd/system
unit_files='tenantmesh-control.service tenantmesh-ca.service tenantmesh-capture.service tenantmesh-sidecar@.service'
systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# step says what happens, and does it: step TEXT COMMAND...
step() {
	echo "$1"
	shift
	[ -n "$dry" ] || "$@"
}

# place puts a file where it belongs, in one step, so that a program that runs goes on with the one before: MODE FROM TO.
replace() {
	mkdir -p "$(dirname "$3")"
	install -m "$1" "$2" "$3.new"
	mv -f "$3.new" "$3"
}
place() {
	if cmp -s "$2" "$root$3" && [ -n "$(find "$root$3" -perm "$1")" ]; then
		echo "unchanged  $3"
	else
		step "install    $3" replace "$1" "$2" "$root$3"
	fi
}
keep() {
	if [ -e "$root$3" ]; then
		echo "kept       $3"
	else
		step "install    $3" replace "$1" "$2" "$root$3"
	fi
}

check_users() {
	passwd=$root/etc/passwd
	other=$(awk -F: -v uid=$uid '$3 == uid && $1 != "tenantmesh-sidecar" { print $1 }' "$passwd" 2>/dev/null || true)
	[ -z "$other" ] || fail "uid $uid must be that of tenantmesh-sidecar (is that of $other)" "give $other another uid: capture excludes the sidecar by its number"
	is=$(awk -F: '$1 == "tenantmesh-sidecar" { print $3 }' "$passwd" 2>/dev/null || true)
	[ "${is:-$uid}" = $uid ] || fail "tenantmesh-sidecar must have uid $uid (has $is)" "remove that user first"
}

make_users() {
	if [ "$(id -u)" != 0 ]; then
		echo "skipped    users: only root makes them; systemd-sysusers will, at the next boot of what is in $root"
	elif command -v systemd-sysusers >/dev/null; then
		step "users      of /etc/sysusers.d/tenantmesh.conf" systemd-sysusers ${root:+"--root=$root"} tenantmesh.conf
	else
		fail "systemd-sysusers must be there, to make the users" "install systemd"
	fi
}

install_all() {
	for program in tenantmesh tenantmesh-sidecar; do
		[ -x "$bin/$program" ] || fail "$bin/$program must be a program" "run 'make build', or name a folder with --bin"
	done
	[ -x "$envoy" ] || fail "$envoy must be an Envoy" "run 'make tools', or name one with --envoy"
	check_users
	place 755 "$bin/tenantmesh" "$prefix/bin/tenantmesh"
	place 755 "$bin/tenantmesh-sidecar" "$prefix/bin/tenantmesh-sidecar"
	place 755 "$envoy" "$prefix/lib/tenantmesh/envoy"
	edited=$(mktemp)
	trap 'rm -f "$edited"' EXIT
	for unit in $unit_files; do
		sed "s|/usr/local/|$prefix/|g" "$here/systemd/$unit" >"$edited"
		place 644 "$edited" "$units/$unit"
	done
	place 644 "$here/systemd/tenantmesh.sysusers" /etc/sysusers.d/tenantmesh.conf
	place 644 "$here/systemd/captured.conf" /etc/tenantmesh/captured.conf
	place 644 "$here/systemd/sidecar.yaml.example" /etc/tenantmesh/sidecar.yaml.example
	keep 644 "$here/systemd/capture.yaml" /etc/tenantmesh/capture.yaml
	keep 644 "$here/systemd/control.env" /etc/tenantmesh/control.env
	[ -d "$root/etc/tenantmesh/sidecar" ] || step "install    /etc/tenantmesh/sidecar" mkdir -p "$root/etc/tenantmesh/sidecar"
	make_users
	! systemd || step "reload     systemd" systemctl daemon-reload
}

remove() {
	if [ -e "$root$1" ] || [ -L "$root$1" ]; then
		step "remove     $1" rm -rf "$root$1"
	fi
}

uninstall_all() {
	if systemd; then
		# Services that require capture end with it: nothing runs uncaptured that should not.
		step "stop       what runs" systemctl stop 'tenantmesh-*.service'
	fi
	if [ -e "$root$units/tenantmesh-control.service" ] && command -v systemctl >/dev/null; then
		# shellcheck disable=SC2086 # they are several
		step "disable    the units" systemctl --root="${root:-/}" --quiet disable $unit_files
	fi
	# Rules without a sidecar would leave this machine without a network.
	if [ -z "$root" ] && [ -x "$prefix/bin/tenantmesh-sidecar" ]; then
		step "remove     the rules of capture" "$prefix/bin/tenantmesh-sidecar" capture remove
	fi
	for unit in $unit_files; do remove "$units/$unit"; done
	remove /etc/sysusers.d/tenantmesh.conf
	remove /etc/tenantmesh/captured.conf
	remove /etc/tenantmesh/sidecar.yaml.example
	remove "$prefix/bin/tenantmesh"
	remove "$prefix/bin/tenantmesh-sidecar"
	remove "$prefix/lib/tenantmesh"
	if [ -n "$purge" ]; then
		for dir in /etc/tenantmesh /var/lib/tenantmesh /var/lib/tenantmesh-ca /var/lib/tenantmesh-sidecar; do remove "$dir"; done
	else
		echo "kept       /etc/tenantmesh, the users, and what is in /var/lib/tenantmesh*"
	fi
	! systemd || step "reload     systemd" systemctl daemon-reload
}

"${action}_all"
