"""Clients of FTP, rsync, SMB, SSH and BitTorrent."""

from __future__ import annotations

import ftplib
import io
import sys
import time

import paramiko  # type: ignore[import-untyped]  # ships no types

from lab.clients.base import Session

__all__ = ["SESSIONS"]


def _ftp(session: Session) -> None:
    kind = session.rng.random()
    user = ["-u", "anonymous:me@lab.test"]
    if kind < 0.3:
        argv = ["curl", "-s", "-g", "-m", "15", *user, "-o", "/dev/null"]
        argv += session.rng.choice([[], ["--disable-epsv"], ["-P", "-"], ["--ftp-skip-pasv-ip"]])
        argv.append(f"ftp://{session.at}/pub/{session.rng.choice(['', session.file()])}")
        session.run(argv)
        return
    if kind < 0.42:
        (session.work / "up").write_bytes(session.data(1, 150_000))
        session.run(["curl", "-s", "-g", "-m", "15", *user, "-T", f"{session.work}/up",
                     f"ftp://{session.at}/in/{session.word()}"])  # fmt: skip
        return
    if kind < 0.55:
        text = "set net:max-retries 1; set net:timeout 6; set ssl:verify-certificate no; "
        text += f"cd pub; ls; get {session.file()}; bye"
        session.run(["lftp", "-e", text, f"ftp://{session.at}"])
        return
    with ftplib.FTP(timeout=8) as made:  # noqa: S321 - FTP is what the lab is to show
        made.connect(session.address, session.port)
        made.login()
        made.set_pasv(session.chance(0.8))
        made.cwd("pub")
        for _ in range(session.count(0, 1, 1, 2, 3)):
            draw = session.rng.random()
            if draw < 0.4:
                made.retrlines(session.rng.choice(["LIST", "NLST"]), lambda line: None)
            elif draw < 0.8:
                made.retrbinary(f"RETR {session.file()}", lambda block: None)
            else:
                made.storbinary(f"STOR /in/{session.word()}", io.BytesIO(session.data(1, 100_000)))
            session.think(0.3)


def _rsync(session: Session) -> None:
    base = ["rsync", "--contimeout=6", "--timeout=10", f"--port={session.port}"]
    base += session.rng.choice([["-a"], ["-az"], ["-rt"], ["-ac"], ["-rW"]])
    target = f"rsync://{session.host}/"
    draw = session.rng.random()
    if draw < 0.15:
        session.run([*base, target])
    elif draw < 0.3:
        session.run([*base, "--list-only", f"{target}data/"])
    elif draw < 0.6:
        session.run([*base, f"{target}data/{session.file()}", f"{session.work}/one"])
    elif draw < 0.75:
        session.run([*base, f"--include=f{session.count(0, 1, 2, 3)}*", "--exclude=*",
                     f"{target}data/", f"{session.work}/some/"])  # fmt: skip
    else:
        place = session.work / "up"
        place.mkdir()
        for number in range(session.count(1, 1, 4, 12)):
            (place / f"u{number}").write_bytes(session.data(1, 60_000))
        session.run([*base, f"{place}/", f"{target}drop/{session.word(3)}/"])


def _smb(session: Session) -> None:
    (session.work / "up").write_bytes(session.data(1, 100_000))
    if session.chance(0.15):
        session.run(
            ["smbclient", "-N", "-g", "-L", f"//{session.address}", "-p", str(session.port)]
        )
        return
    get = f"get {session.file()} /dev/null"
    put = f"put up {session.word()}"
    doable = ["ls", get, get, put, "allinfo f01.bin", f"mkdir {session.word()}"]
    steps = session.rng.choices(doable, k=session.count(1, 1, 2, 4))
    level = session.rng.choice(["SMB2", "SMB3", "SMB3"])
    session.run(["smbclient", "-N", "-m", level, f"//{session.address}/pub", "-p",
                 str(session.port), "-c", "; ".join(steps)])  # fmt: skip


def _ssh_command(session: Session) -> str:
    return session.rng.choice(
        [
            "true",
            "uname -a",
            f"head -c {session.size(1, 200_000)} /dev/urandom",
            "for i in 1 2 3 4 5; do echo line $i; sleep 0.$i; done",
            "cat > /dev/null",
            "ls -la /usr/bin | head -40",
        ]
    )


def _ssh(session: Session) -> None:
    keys = session.shared / "ssh"
    kind = session.rng.choice(["ed25519", "ecdsa", "rsa"])
    # OpenSSH refuses a key that others may read, and the shared folder is readable.
    key = session.work / "key"
    key.write_bytes((keys / f"user_{kind}").read_bytes())
    key.chmod(0o600)
    options = ["-i", str(key), "-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o",
               "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "ConnectTimeout=8",
               "-o", f"Compression={session.rng.choice(['yes', 'no'])}"]  # fmt: skip
    draw = session.rng.random()
    if draw < 0.35:
        argv = ["ssh", *options, "-p", str(session.port)]
        data = session.data(1, 100_000)
        if session.chance(0.3):
            argv.append("-tt")
            # A terminal: typed lines, and Ctrl-D for whoever reads them.
            data = b"".join(session.word().encode() + b"\n" for _ in range(session.count(1, 4, 9)))
            data += b"\x04"
        session.run([*argv, f"root@{session.address}", _ssh_command(session)], data=data)
    elif draw < 0.5:
        (session.work / "up").write_bytes(session.data(1, 150_000))
        session.run(["scp", *options, "-P", str(session.port), f"{session.work}/up",
                     f"root@{session.host}:/dev/null"])  # fmt: skip
    elif draw < 0.62:
        text = f"ls /usr/share\nget /etc/{session.rng.choice(['services', 'protocols'])} x\nbye\n"
        session.run(["sftp", *options, "-b", "-", "-P", str(session.port),
                     f"root@{session.host}"], data=text.encode())  # fmt: skip
    elif draw < 0.68:
        session.run(["ssh-keyscan", "-T", "5", "-p", str(session.port), session.address])
    else:
        _paramiko(session, str(key) if session.chance(0.92) else "")


def _paramiko(session: Session, key: str) -> None:
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect(
            session.address,
            session.port,
            username="root",
            key_filename=key or None,
            password=None if key else session.word(),
            timeout=8,
            banner_timeout=8,
            auth_timeout=8,
            look_for_keys=False,
            allow_agent=False,
        )
        if session.chance(0.4):
            shell = client.invoke_shell()
            for _ in range(session.count(2, 5, 12)):
                shell.send(
                    session.rng.choice(["ls\n", "date\n", "echo hello world\n", "df\n"]).encode()
                )
                time.sleep(session.rng.uniform(0.02, 0.5))
            return
        for _ in range(session.count(1, 1, 3)):
            pipe, answer, _ = client.exec_command(_ssh_command(session), timeout=6)
            pipe.channel.shutdown_write()
            answer.read()
            session.think(0.3)


def _bittorrent(session: Session) -> None:
    name = f"t{session.rng.randrange(5)}"
    folder = session.shared / "torrents"
    limit = min(session.rng.uniform(2, 9), session.remaining)
    if session.chance(0.35) and ":" not in session.address:
        argv = ["aria2c", "-q", f"--interface={session.own}", f"--dir={session.work}",
                f"--bt-tracker=udp://{session.address}:{session.end.aux_port}/announce",
                "--seed-time=0", "--bt-enable-lpd=false", "--no-conf",
                # aria2 speaks to UDP trackers only where its DHT is on.
                "--enable-dht=true", f"--dht-file-path={session.work}/dht",
                f"--dht-listen-port={session.rng.randrange(20000, 60000)}",
                f"--listen-port={session.rng.randrange(20000, 60000)}",
                "--bt-tracker-connect-timeout=4", "--file-allocation=none",
                f"--bt-min-crypto-level={session.rng.choice(['plain', 'arc4'])}",
                str(folder / f"{name}.torrent")]  # fmt: skip
        session.run(argv, limit=limit)
        return
    modes = ["tcp", "tcp", "utp", "encrypted", "dht"]
    modes += ["tracker"] if ":" not in session.address else []
    mode = session.rng.choice(modes)
    session.run([sys.executable, "-m", "lab.servers.seeder", "fetch", str(folder), name,
                 session.own, session.address, str(session.port), str(session.end.aux_port),
                 f"{limit:.1f}", mode],
                limit=limit + 4)  # fmt: skip


SESSIONS = {
    "ftp": _ftp,
    "rsync": _rsync,
    "smb": _smb,
    "ssh": _ssh,
    "bittorrent": _bittorrent,
}
