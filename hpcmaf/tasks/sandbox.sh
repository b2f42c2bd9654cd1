#!/bin/sh
# Run a command in a root of its own: BYTES that can be written there, a USER to become (empty for whoever is not
# root), FOLDERS to be read (separated by colons), COMMAND...
set -e
bytes=$1 user=$2 folders=$3
shift 3
# A folder that every machine has, with nothing in it that Python needs.
mount -t tmpfs -o "size=$bytes,nr_inodes=4096,mode=755" tmpfs /sys
cd /sys
# Segments of System V count for nobody's limit of memory; before Linux 5.19 only root can forbid them.
echo 0 2>/dev/null >/proc/sys/kernel/shmall || :
for path in /bin /sbin /lib /lib64; do
    if [ -L "$path" ]; then
        ln -s "$(readlink "$path")" ".$path"
    elif [ -d "$path" ]; then
        folders=$folders:$path
    fi
done
IFS=:
for path in $folders; do
    mkdir -p ".$path"
    mount --rbind "$path" ".$path"
    mount -o remount,bind,ro,nosuid,nodev ".$path"
done
unset IFS
mkdir tmp dev
chmod 1777 tmp
for device in null urandom; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
rights="--bounding-set=-all --inh-caps=-all --no-new-privs"
[ -z "$user" ] || rights="--reuid $user --regid $user --clear-groups $rights"
# shellcheck disable=SC2086
chroot . setpriv $rights "$@"
# So that this process stays, which takes all others with it when it ends.
exit $?
