#!/bin/sh
# Make the images' locks, docker/requirements-*.txt, of pyproject.toml and constraints.txt: run it
# after a change there, and commit what it writes. Needs uv (pip install uv) and a package index.
set -eu
cd "$(dirname "$0")/.."
lock() {
    image=$1
    shift
    # The index is not written down: whoever builds has one of their own.
    uv pip compile pyproject.toml "$@" --quiet -c constraints.txt --generate-hashes --no-annotate \
        --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-emit-index-url \
        --custom-compile-command tools/lock_images.sh -o "docker/requirements-$image.txt"
}
lock service --extra serve
lock collector --extra grpc --extra kafka
