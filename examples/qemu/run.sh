#!/bin/sh
# Boots a guest in QEMU whose network card is served by Tubetti. No privileges needed.
#
#   run.sh KERNEL INITRAMFS [TUBETTI OPTION]...
#   run.sh DISK [TUBETTI OPTION]...
#
# Environment: QEMU (program), MEMORY (default 1G), ACCEL (kvm or tcg; default: kvm if a guest runs on /dev/kvm),
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

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# /dev/kvm may open where no guest runs on it: in some virtual machines it hangs as soon as it leaves real mode. So a guest
# is run: 126 bytes of code where firmware would be, which enter 64-bit mode with paging and write 16 to the port of
# QEMU's isa-debug-exit, upon which QEMU exits with 2 * 16 + 1.
kvm_runs() {
  {
    # In 16-bit mode: cli; ljmp $0xf000,$low; low: ds = 0; lgdt; page tables at 0x1000, 0x2000, 0x3000 for the first 2 MiB;
    # cr4.PAE; cr3; EFER.LME; cr0 = PG|PE; ljmp to the code segment. In 64-bit mode: mov $0x10,%al; out %al,$0xf4; hlt.
    # Then the descriptor table: none, 64-bit code.
    printf '\372\352\006\000\000\360\061\300\216\330\056\146\017\001\026\170\000\146\307\006\000\020\003\040\000\000'
    printf '\146\307\006\000\040\003\060\000\000\146\307\006\000\060\203\000\000\000\017\040\340\014\040\017\042\340'
    printf '\146\270\000\020\000\000\017\042\330\146\271\200\000\000\300\017\062\200\314\001\017\060\146\270\001\000'
    printf '\000\200\017\042\300\146\352\133\000\017\000\010\000\260\020\346\364\364\353\375\146\017\037\104\000\000'
    printf '\000\000\000\000\000\000\000\000\377\377\000\000\000\232\257\000\017\000\150\000\017\000'
    head -c 65394 /dev/zero
    # At the reset vector, 16 bytes before the end: jmp to the beginning.
    printf '\351\015\000'
    head -c 13 /dev/zero
  } >"$dir/probe"
  status=0
  timeout -k 1 3 "$qemu" -M q35 -accel kvm -cpu max -nodefaults -display none \
    -device isa-debug-exit,iobase=0xf4,iosize=4 -bios "$dir/probe" 2>/dev/null || status=$?
  [ $status -eq 33 ]
}

if [ -n "${ACCEL:-}" ]; then accel=$ACCEL
elif [ ! -w /dev/kvm ]; then accel=tcg
elif kvm_runs; then accel=kvm
else
  accel=tcg
  echo "run.sh: /dev/kvm opens, but no guest runs on it: the guest is emulated, which is slow (ACCEL=kvm tries all the same)" >&2
fi

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
