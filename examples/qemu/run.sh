#!/bin/sh
# Boots a guest in QEMU whose network card is served by Tubetti. No privileges needed.
#
#   run.sh KERNEL INITRAMFS [TUBETTI OPTION]...
#   run.sh DISK [TUBETTI OPTION]...
#
# Environment: QEMU (program), MEMORY (default 1G), ACCEL (kvm or tcg; default: kvm if /dev/kvm can be written),
# APPEND (kernel command line), TUBETTI (command). The serial console is this terminal; Ctrl-A X ends QEMU.
set -eu

usage() {
  sed -n '4,5s/^# *//p' "$0" >&2
  exit 2
}

here=$(cd "$(dirname "$0")" && pwd)
qemu=${QEMU:-qemu-system-x86_64}
memory=${MEMORY:-1G}
tubetti=${TUBETTI:-"node $here/../../bin/tubetti.js"}

[ $# -ge 1 ] || usage
first=$1
shift
if [ $# -ge 1 ] && [ "${1#-}" = "$1" ]; then
  initramfs=$1
  shift
else
  initramfs=
fi

if [ -n "${ACCEL:-}" ]; then accel=$ACCEL
elif [ -w /dev/kvm ]; then accel=kvm
else accel=tcg; fi

# "7 2" of "QEMU emulator version 7.2.22 (...)".
version=$("$qemu" --version | sed -n 's/.*version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
major=${version% *}
minor=${version#* }

# reconnect= is deprecated since 9.2, which has reconnect-ms=.
if [ "$major" -gt 9 ] || { [ "$major" -eq 9 ] && [ "$minor" -ge 2 ]; }; then reconnect=reconnect-ms=1000
else reconnect=reconnect=1; fi

# QEMU 7 dies in its own vector notifiers when a vhost-user card uses MSI-X under TCG.
vectors=
if [ "$accel" = tcg ] && [ "$major" -lt 8 ]; then vectors=,vectors=0; fi

dir=$(mktemp -d)
socket=$dir/tubetti.sock
# shellcheck disable=SC2086 # the command may be several words
$tubetti --socket "$socket" "$@" &
service=$!
vm=
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
  # Under "set -e" a process that is gone already must not end the clean-up.
  for process in $vm $service; do
    kill "$process" 2>/dev/null || :
    wait "$process" 2>/dev/null || :
  done
  rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP
until [ -S "$socket" ]; do
  kill -0 $service 2>/dev/null || exit 1
  sleep 0.1
done

if [ -n "$initramfs" ]; then
  set -- -kernel "$first" -initrd "$initramfs" -append "${APPEND:-console=ttyS0}"
else
  set -- -drive "file=$first,if=virtio"
fi

# In the background, so that a signal to this script is not held up until the guest ends; it keeps the terminal.
exec 3<&0
# The memory must be shared (share=on) and of the same size as -m: Tubetti works in it.
"$qemu" -M q35 -accel "$accel" -cpu max -m "$memory" \
  -object memory-backend-memfd,id=mem,size="$memory",share=on -numa node,memdev=mem \
  -chardev socket,id=net0,path="$socket",$reconnect \
  -netdev vhost-user,id=net0,chardev=net0 \
  -device virtio-net-pci,netdev=net0$vectors \
  -nographic -no-reboot "$@" <&3 &
vm=$!
wait $vm
