#!/bin/sh
# See that a system package is there; install it where that is allowed.
# Usage: tools/need.sh COMMAND                     (the Debian package has the command's name)
#        tools/need.sh --package PACKAGE
#        tools/need.sh --command COMMAND PACKAGE   (unless the command is there)
set -eu
case $1 in
--package)
    package=$2
    ;;
--command)
    command -v "$2" >/dev/null && exit 0
    package=$3
    ;;
*)
    package=$1
    command -v "$package" >/dev/null && exit 0
    ;;
esac
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$package" >/dev/null
else
    echo "$package is missing and cannot be installed from here. Run: sudo apt-get install $package" >&2
    exit 1
fi
