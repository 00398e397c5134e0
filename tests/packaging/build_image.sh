#!/usr/bin/env bash
# Builds the Dockerfile on a machine without a Docker daemon and without pulling anything from a registry of images:
# Debian's own packages make the base image, which is imported under the name that FROM wants.
#
#   build_image.sh DIRECTORY [ROOT]     as root; needs buildah and debootstrap. The image is molehill:test in the storage
#                                       under DIRECTORY: buildah --root DIRECTORY/storage --runroot DIRECTORY/run images
#                                       ROOT: a tree that debootstrap made earlier.
# DIRECTORY has about 1.5 GB afterwards and can be removed as a whole.
set -euo pipefail
directory=$(realpath -m "$1")
root=${2:-$directory/root}
source=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$directory"
mirror=${MOLEHILL_MIRROR:-}  # empty: where debootstrap looks by itself

buildah() { command buildah --root "$directory/storage" --runroot "$directory/run" --storage-driver vfs "$@"; }

if [ ! -e "$root/etc/debian_version" ]; then
  echo "== debootstrap"
  debootstrap --variant=minbase bookworm "$root" ${mirror:+"$mirror"} > "$directory/debootstrap.log"
fi

echo "== base image"
base=$(buildah from scratch)
buildah add -q "$base" "$root" / > /dev/null
buildah config --cmd bash "$base"
buildah commit -q --format docker "$base" localhost/debian:bookworm-slim > /dev/null
buildah rm "$base" > /dev/null

# What this machine's network asks of pip (its authorities) is lent to the build and is not in the image.
lent=()
bundle=/etc/ssl/certs/ca-certificates.crt
if [ -e "$bundle" ]; then
  printf '[global]\ncert = /run/lent.crt\n' > "$directory/pip.conf"
  lent=(--volume "$bundle:/run/lent.crt:ro" --volume "$directory/pip.conf:/etc/pip.conf:ro")
fi

echo "== molehill's image"
buildah build --isolation chroot --network host --format docker --pull-never "${lent[@]}" -t molehill:test "$source"
