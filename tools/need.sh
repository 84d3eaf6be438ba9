#!/bin/sh
# See that a system package is there; install it where that is allowed.
# Usage: tools/need.sh COMMAND   (the Debian package has the command's name)
#        tools/need.sh --package PACKAGE
set -eu
if [ "$1" = --package ]; then
    package=$2
else
    package=$1
    command -v "$package" >/dev/null && exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$package" >/dev/null
else
    echo "$package is missing and cannot be installed from here. Run: sudo apt-get install $package" >&2
    exit 1
fi
