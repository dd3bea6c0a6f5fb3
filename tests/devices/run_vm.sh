#!/bin/bash
# Real devices without hardware: a small virtual machine (QEMU, software emulation, not root) whose kernel
# has a V4L2 camera that shows what is played to it, another with a test picture (both `vivid`) and an ALSA
# sound card (`snd-aloop`). It sees this machine's files read-only at the same paths and runs tests/devices/check.py.
#
#   PYTHON=.venv/bin/python tests/devices/run_vm.sh [sources|program|all]    ends with check.py's status
#
# `sources` takes a minute, `program` about four, on two processors that have nothing else to do; beside other
# heavy work the workers do not come up in the time that they are given.
#
# The emulated processor has no AVX and no FMA: emulated, they are ten times slower than doing without.
#
# Debian: sudo apt install qemu-system-x86 busybox-static kmod cpio v4l-utils alsa-utils libportaudio2
# The kernel is Debian's linux-image-amd64, downloaded once (70 MB) and only unpacked.
# Environment: PYTHON (python3), VM_DIR (~/.cache/de3-live-vm), VM_MEMORY (2048 MiB), VM_CPUS (2), VM_TIMEOUT (900 s),
# DE3_FACE_MODEL (a face model other than the one in this user's cache; the machine has no network).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
python=$(command -v "${PYTHON:-python3}")
directory=${VM_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/de3-live-vm}
kernel=$directory/kernel
out=$directory/out
mkdir -p "$kernel" "$out"

for program in qemu-system-x86_64 busybox cpio /sbin/modprobe dpkg-deb; do
  command -v $program >/dev/null || { echo "$program is missing; see the head of $0" >&2; exit 2; }
done
(cd "$repository" && "$python" -c 'import cv2, engine, realtime') || { echo "set PYTHON; see the head of $0" >&2; exit 2; }

if [ ! -e "$directory/initrd.gz" ]; then
  package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-[0-9]/{print $2; exit}')
  (cd "$directory" && apt-get download -q "$package" && dpkg-deb -x "${package}"_*.deb "$kernel" && rm "${package}"_*.deb)
  version=$(ls "$kernel/lib/modules")
  /sbin/depmod -b "$kernel" "$version"
  root=$(mktemp -d)
  mkdir -p "$root"/{bin,modules,proc,sys,dev,host,upper,new}
  cp "$(command -v busybox)" "$root/bin/busybox"
  for module in virtio_pci 9pnet_virtio 9p overlay; do
    /sbin/modprobe -d "$kernel" -S "$version" --show-depends $module
  done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
    cp "$file" "$root/modules/"
    basename "$file" >>"$root/modules/order"
  done
  cp "$here/guest_init.sh" "$root/init"
  (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$directory/initrd.gz"
  rm -r "$root"
fi
version=$(ls "$kernel/lib/modules")

echo "preparing what is shown and said to the devices" >&2
(cd "$repository" && PYTHONPATH=$repository "$python" tests/devices/check.py prepare "$out")

cat >"$out/command.sh" <<EOF2
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
export PYTHONPATH=$repository PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
export DE3_FACE_MODEL=${DE3_FACE_MODEL:-}
modprobe() { /sbin/modprobe -d $kernel "\$@"; }
modprobe vivid n_devs=2 node_types=0x101,0x1 num_inputs=1,1 input_types=0x3,0x0 num_outputs=1,1 output_types=0x1,0x0
modprobe snd-aloop
cd $repository && $python tests/devices/check.py ${1:-all} $out
echo \$? >/mnt/out/status
EOF2
rm -f "$out/status"
timeout "${VM_TIMEOUT:-900}" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max,-avx,-avx2,-fma,-f16c \
  -smp "${VM_CPUS:-2}" -m "${VM_MEMORY:-2048}" -nodefaults -no-reboot \
  -display none -serial stdio -monitor none -device virtio-rng-pci \
  -kernel "$kernel"/boot/vmlinuz-* -initrd "$directory/initrd.gz" \
  -append "console=ttyS0 quiet loglevel=2 panic=-1 mitigations=off nokaslr tsc=reliable random.trust_cpu=on" \
  -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
  -virtfs local,path="$out",mount_tag=out,security_model=none,multidevs=remap </dev/null
exit "$(cat "$out/status" 2>/dev/null || echo 3)"
