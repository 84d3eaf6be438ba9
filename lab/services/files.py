"""FTP, rsync, SMB, SSH and BitTorrent: moving files and working remotely."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from lab.services.base import Command, Service, Site, give_to, must

__all__ = ["SERVICES"]

_WHITELIST = "whitelist.txt"
"""The torrents that the tracker serves; ``lab.servers.seeder make`` writes it."""


def _copy_files(site: Site, name: str) -> Path:
    target = site.folder(name)
    must("cp", "-r", f"{site.shared}/files/.", str(target))
    return target


def _ftp(site: Site) -> list[Command]:
    end = site.endpoint
    low, high = site.passive_ports
    root = site.folder("ftp")
    _copy_files(site, "ftp/pub")
    incoming = site.folder("ftp/in", 0o777)
    if end.variant == "pyftpdlib":
        return [
            Command(
                "pyftpdlib",
                [sys.executable, "-m", "pyftpdlib", "-i", address, "-p", str(end.port), "-w",
                 "-d", str(root), "-r", f"{low}-{high}"],
            )
            for address in (end.ipv4, end.ipv6)
        ]  # fmt: skip
    give_to("ftp", incoming)
    must("mkdir", "-p", "/var/run/vsftpd/empty")
    commands = []
    for version, address in (("", end.ipv4), ("_ipv6", end.ipv6)):
        digit = "6" if version else ""
        text = (
            f"background=NO\nlisten{version}=YES\nlisten_address{digit}={address}\n"
            f"listen_port={end.port}\nanonymous_enable=YES\nlocal_enable=NO\nwrite_enable=YES\n"
            f"anon_upload_enable=YES\nanon_mkdir_write_enable=YES\nno_anon_password=NO\n"
            f"anon_root={root}\nseccomp_sandbox=NO\nisolate_network=NO\n"
            f"connect_from_port_20={site.rng.choice(['YES', 'NO'])}\nanon_umask=022\n"
            f"pasv_min_port={low}\npasv_max_port={high}\nanon_other_write_enable=YES\n"
            "secure_chroot_dir=/var/run/vsftpd/empty\n"
        )
        conf = site.write(f"vsftpd{digit}.conf", text)
        commands.append(Command("vsftpd", ["vsftpd", str(conf)]))
    return commands


def _rsync(site: Site) -> list[Command]:
    end = site.endpoint
    _copy_files(site, "tree")
    site.folder("drop", 0o777)
    text = (
        "use chroot = no\nuid = 0\ngid = 0\n"
        f"[data]\npath = {site.work}/tree\nread only = yes\n"
        f"[drop]\npath = {site.work}/drop\nread only = no\n"
    )
    conf = site.write("rsyncd.conf", text)
    return [
        Command(
            "rsync",
            ["rsync", "--daemon", "--no-detach", f"--config={conf}", f"--address={address}",
             f"--port={end.port}"],
        )
        for address in (end.ipv4, end.ipv6)
    ]  # fmt: skip


def _smb(site: Site) -> list[Command]:
    end = site.endpoint
    _copy_files(site, "share")
    folders = "".join(
        f"{name} = {site.folder('state/' + name.split()[0])}\n"
        for name in ("private dir", "lock directory", "state directory", "cache directory",
                     "pid directory", "ncalrpc dir", "binddns dir")
    )  # fmt: skip
    text = (
        "[global]\nserver role = standalone server\nmap to guest = Bad User\n"
        f"guest account = root\ninterfaces = {end.ipv4} {end.ipv6}\nbind interfaces only = yes\n"
        f"smb ports = {end.port}\ndisable netbios = yes\nload printers = no\nprinting = bsd\n"
        f"printcap name = /dev/null\nlog file = {site.work}/log\n{folders}"
        f"server min protocol = {site.rng.choice(['SMB2_02', 'NT1'])}\n"
        f"[pub]\npath = {site.work}/share\nguest ok = yes\nread only = no\nforce user = root\n"
    )
    conf = site.write("smb.conf", text)
    return [
        Command(
            "smbd",
            ["smbd", "--foreground", "--no-process-group", "--debug-stdout", "-s", str(conf)],
        )
    ]


def _prepare_ssh(shared: Path) -> None:
    keys = shared / "ssh"
    keys.mkdir()
    for kind in ("ed25519", "ecdsa", "rsa"):
        must("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(keys / f"host_{kind}"))
        must(
            "ssh-keygen", "-q", "-t", kind, "-N", "", "-m", "PEM", "-f", str(keys / f"user_{kind}")
        )
    public = [
        (keys / f"user_{kind}.pub").read_text("utf-8") for kind in ("ed25519", "ecdsa", "rsa")
    ]
    (keys / "authorized_keys").write_text("".join(public), encoding="utf-8")


def _ssh(site: Site) -> list[Command]:
    end = site.endpoint
    must("mkdir", "-p", "/run/sshd")
    keys = site.shared / "ssh"
    rng = site.rng
    kinds = rng.sample(["ed25519", "ecdsa", "rsa"], k=rng.randrange(1, 4))
    lines = [f"HostKey {keys}/host_{kind}" for kind in kinds]
    lines += [f"Port {end.port}", f"ListenAddress {end.ipv4}", f"ListenAddress {end.ipv6}",
              f"AuthorizedKeysFile {keys}/authorized_keys", "StrictModes no", "UsePAM no",
              "PermitRootLogin prohibit-password", f"PidFile {site.work}/pid", "UseDNS no",
              # The login's own dot files must not run: they differ from machine to machine.
              f"SetEnv HOME={site.folder('home')}",
              "MaxStartups 100", "Subsystem sftp internal-sftp", "PrintMotd no",
              f"Compression {rng.choice(['yes', 'no'])}"]  # fmt: skip
    if rng.random() < 0.4:
        lines.append("Ciphers aes256-ctr,aes128-ctr,aes128-gcm@openssh.com")
    conf = site.write("sshd_config", "\n".join(lines) + "\n")
    return [Command("sshd", ["/usr/sbin/sshd", "-D", "-e", "-f", str(conf)])]


def _prepare_bittorrent(shared: Path) -> None:
    must(sys.executable, "-m", "lab.servers.seeder", "make", str(shared / "torrents"))


def _bittorrent(site: Site) -> list[Command]:
    end = site.endpoint
    argv = [sys.executable, "-m", "lab.servers.seeder", "seed", str(site.shared / "torrents"),
            end.ipv4, end.ipv6, str(end.port), str(end.aux_port)]  # fmt: skip
    # Debian's tracker serves listed torrents only; it reads the list after it changed its root.
    shutil.copy(site.shared / "torrents" / _WHITELIST, site.work / _WHITELIST)
    tracker = ["opentracker", "-i", end.ipv4, "-P", str(end.aux_port), "-u", "nobody", "-d", ".",
               "-w", _WHITELIST]  # fmt: skip
    return [Command("opentracker", tracker), Command("seeder", argv)]


SERVICES = (
    Service("ftp", 21, {"vsftpd": "vsftpd", "pyftpdlib": "pyftpdlib"}, _ftp, weight=0.45),
    Service("rsync", 873, {"rsync": "rsync"}, _rsync),
    Service("smb", 445, {"samba": "samba"}, _smb),
    Service("ssh", 22, {"openssh": "openssh-server"}, _ssh, _prepare_ssh),
    Service(
        "bittorrent",
        6881,
        {"libtorrent": "libtorrent"},
        _bittorrent,
        _prepare_bittorrent,
        transports=("tcp", "udp"),
        weight=1.0,
    ),
)
