"""Pods as far as one machine has them (root): own network and files, few rights.

What KubeRay's pods have and a process has not: an address of its own, a root file system that
cannot be written to, an empty ``/tmp`` and ``/dev/shm``, a user without most rights. What they do
not have here: an image, limits, and whatever Kubernetes does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.veth import Namespace

__all__ = ["COLLECTORS_RIGHTS", "RAYS_RIGHTS", "PodNetwork", "remove_aside", "start_pod"]

# What lies below folders that are laid anew is put aside first, and bound to its place again.
_SCRIPT = r"""
set -eu
aside=$1; shift
number=0
for path in "$@"; do
    [ "$path" != -- ] || break
    number=$((number + 1))
    mkdir -p "$aside/$number"
    mount --bind "$path" "$aside/$number"
done
mount -t tmpfs -o mode=755 none /root
mount -t tmpfs -o mode=1777 none /tmp
mount -t tmpfs -o mode=1777 none /dev/shm
number=0
while [ "$1" != -- ]; do
    number=$((number + 1))
    mkdir -p "$1"
    mount --bind "$aside/$number" "$1"
    shift
done
shift
mount -o remount,bind,ro /
cd /
exec "$@"
"""
_SETPRIV = ("setpriv", "--no-new-privs", "--inh-caps=-all")
RAYS_RIGHTS = (*_SETPRIV, "--reuid=1000", "--regid=100", "--clear-groups", "--bounding-set=-all")
COLLECTORS_RIGHTS = (*_SETPRIV, "--bounding-set=-all,+net_raw")


class PodNetwork:
    """Two network namespaces with a cable between them, removed on leaving with all in them.

    Attributes:
        head: The one of Ray's head.
        worker: The one of a worker.
        head_ip: The head's address.
        worker_ip: The worker's.
    """

    head_ip, worker_ip = "10.77.0.1", "10.77.0.2"

    def __init__(self) -> None:
        self.head, self.worker = Namespace(), Namespace()

    def __enter__(self) -> PodNetwork:
        self.head.__enter__()
        self.worker.__enter__()
        self.head.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0",
                     "netns", self.worker.name)  # fmt: skip
        ends = ((self.head, self.head_ip), (self.worker, self.worker_ip))
        for (namespace, own), (_, other) in zip(ends, ends[::-1], strict=True):
            namespace.ip("addr", "add", f"{own}/24", "dev", "eth0")
            namespace.ip("link", "set", "eth0", "up")
            # Ray takes for its address the one by which it would reach the internet.
            namespace.ip("route", "add", "default", "via", other)
        return self

    def __exit__(self, *_: object) -> None:
        for namespace in (self.worker, self.head):
            namespace.__exit__()
            remove_aside(namespace)


def _aside(namespace: Namespace) -> Path:
    """Return a folder outside of those that are laid anew."""
    return Path("/run") / f"{namespace.name}-aside"


def remove_aside(namespace: Namespace) -> None:
    """Remove what pods in a namespace have left."""
    folder = _aside(namespace)
    for place in (*folder.glob("*"), folder):
        if place.is_dir():
            place.rmdir()  # empty here: what was bound to it was so in the pod alone


def start_pod(
    where: Namespace,
    rights: Sequence[str],
    command: str,
    environment: Mapping[str, str],
    log: Path,
    mounted: Sequence[Path],
) -> subprocess.Popen[bytes]:
    """Start a shell's command as the container of a pod would run it.

    Args:
        where: Its network.
        rights: :data:`RAYS_RIGHTS` or :data:`COLLECTORS_RIGHTS`.
        command: The command.
        environment: All that it gets, besides where this Python and the repository are.
        log: File for what it prints.
        mounted: What it finds besides, the repository first, which is in the image's place.
    """
    aside = _aside(where)
    aside.mkdir(exist_ok=True)
    # A path is kept as it is called, and where it really lies; the outer ones before the inner.
    paths = {*mounted, Path(sys.prefix), Path(sys.prefix).resolve(), Path(sys.base_prefix)}
    kept = sorted(str(path) for path in paths if path.parts[1] in ("root", "tmp"))
    found = {
        "PATH": f"{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(mounted[0]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/",
        "LANG": "C.UTF-8",
    }
    variables = [f"{name}={value}" for name, value in (found | dict(environment)).items()]
    inner = [*rights, "env", "-i", *variables, "bash", "-c", "--", command]
    outer = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SCRIPT, "pod"]
    with log.open("ab") as printed:
        return subprocess.Popen(
            where.inside([*outer, str(aside), *kept, "--", *inner]),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
