#!/bin/busybox sh
# The first process of the virtual machine of run_vm.sh: this machine's files read-only under an overlay in
# memory, so that writes vanish with the machine; then command.sh, then off.
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t devtmpfs dev /dev
for module in $($B cat /modules/order); do $B insmod "/modules/$module"; done
# Large packets and a page cache: without them, importing NumPy over 9p takes minutes.
$B mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=1048576,cache=loose host /host || $B poweroff -f
$B mount -t tmpfs -o size=60% tmpfs /upper
$B mkdir /upper/files /upper/work
$B mount -t overlay -o lowerdir=/host,upperdir=/upper/files,workdir=/upper/work,xino=off overlay /new || $B poweroff -f
$B mkdir -p /new/mnt/out
$B mount -t proc proc /new/proc
$B mount -t sysfs sys /new/sys
$B mount -t devtmpfs dev /new/dev
$B mkdir -p /new/dev/shm /new/dev/pts
$B mount -t tmpfs shm /new/dev/shm
$B mount -t devpts devpts /new/dev/pts
$B mount -t tmpfs run /new/run
$B mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none out /new/mnt/out
$B ip link set lo up
$B chroot /new /bin/bash /mnt/out/command.sh </dev/null >/dev/ttyS0 2>&1
$B sync
$B poweroff -f
