#!/bin/sh
# Make .venv with everything in it. Usage: tools/install.sh PYTHON
set -eu
python=$1

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "ServeFlow needs Python 3.11 or later; '$python' is $("$python" --version). Try: make PYTHON=python3.11 install" >&2
    exit 1
}
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian ships the venv module in a package of its own.
    "$(dirname "$0")/need.sh" --package "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
fi
# LightGBM's wheel needs it and does not bring it; the search for it must not end the script.
if ! ldconfig -p 2>/dev/null | grep -q 'libgomp\.so\.1'; then
    "$(dirname "$0")/need.sh" --package libgomp1
fi
"$python" -m venv .venv
echo "installing packages into .venv (some minutes, most of it Ray and torch) …" >&2
.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[serve,train,pyshark,dev]'
