"""What the lab needs of the machine: root, TUN devices, Debian packages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from lab.errors import LabError

__all__ = ["PYTHON_PACKAGES", "check_machine", "install_missing", "versions"]

_POLICY = Path("/usr/sbin/policy-rc.d")
_PACKAGES = Path(__file__).with_name("packages.txt")

PYTHON_PACKAGES = {
    "aioquic": "aioquic",
    "aiosmtpd": "aiosmtpd",
    "dnspython": "dns",
    "h2": "h2",
    "httpx": "httpx",
    "ldap3": "ldap3",
    "libtorrent": "libtorrent",
    "paho-mqtt": "paho.mqtt",
    "paramiko": "paramiko",
    "psycopg": "psycopg",
    "pyftpdlib": "pyftpdlib",
    "pymemcache": "pymemcache",
    "PyMySQL": "pymysql",
    "redis": "redis",
}
"""Project name → module, of what the ``lab`` extra installs."""


def check_machine() -> None:
    """Refuse to start where the lab cannot run, and say what is missing."""
    if os.geteuid() != 0:
        raise LabError(
            "The lab makes network namespaces, so it must run as root: sudo .venv/bin/python -m lab"
        )
    if not Path("/dev/net/tun").exists():
        raise LabError(
            "/dev/net/tun is missing: load the kernel's tun module (modprobe tun), or give the "
            "container that device and NET_ADMIN and SYS_ADMIN."
        )
    missing = []
    for project, module in PYTHON_PACKAGES.items():
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            missing.append(project)
    if missing:
        raise LabError(f"Missing: {', '.join(missing)}. Install the extra: pip install '.[lab]'")


def _listed() -> list[str]:
    lines = _PACKAGES.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _installed(names: Iterable[str]) -> dict[str, str]:
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status} ${Version}\n", *names],
        capture_output=True,
        text=True,
        check=False,
    )
    found = {}
    for line in done.stdout.splitlines():
        name, status, *version = line.split(" ")
        if status == "installed":
            found[name] = version[0]
    return found


def install_missing() -> list[str]:
    """Install the Debian packages that are not there; none of their servers starts by itself.

    Returns:
        What was installed.
    """
    if shutil.which("dpkg-query") is None:
        raise LabError(f"This is not a Debian system; install what {_PACKAGES.name} lists by hand.")
    names = _listed()
    have = _installed(names)
    missing = [name for name in names if name not in have]
    if not missing:
        return []
    # Debian starts a server as soon as it is installed, unless a policy forbids it.
    made_policy = not _POLICY.exists()
    if made_policy:
        _POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
        _POLICY.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for words in (["update", "-qq"], ["install", "-y", "--no-install-recommends", *missing]):
            done = subprocess.run(
                ["apt-get", *words], env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise LabError(f"apt-get {words[0]} failed: {done.stderr.strip()[-500:]}")
    finally:
        if made_policy:
            _POLICY.unlink(missing_ok=True)
    return missing


def versions() -> dict[str, str]:
    """The versions of the Debian packages and Python projects that make the traffic."""
    found = _installed(_listed())
    for project in PYTHON_PACKAGES:
        found[project] = importlib.metadata.version(project)
    return dict(sorted(found.items()))
