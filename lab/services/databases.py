"""PostgreSQL, MariaDB, Redis and memcached."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab.errors import LabError
from lab.services.base import Command, Service, Site, give_to, must

__all__ = ["SERVICES"]


def _postgres_tool(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not found:
        raise LabError(f"PostgreSQL's {name} is not there; is the package postgresql installed?")
    return str(found[-1])


def _prepare_postgresql(shared: Path) -> None:
    data = shared / "postgresql"
    data.mkdir()
    give_to("postgres", data)
    password = shared / "pgpass"
    password.write_text("lab\n", encoding="utf-8")
    password.chmod(0o644)
    must(_postgres_tool("initdb"), "-D", str(data), "-A", "scram-sha-256", "-U", "lab",
         "--no-sync", "--pwfile", str(password), user="postgres")  # fmt: skip


def _postgresql(site: Site) -> list[Command]:
    end = site.endpoint
    data = site.work / "data"
    must("cp", "-a", str(site.shared / "postgresql"), str(data))
    method = site.rng.choice(["scram-sha-256", "trust"])
    (data / "pg_hba.conf").write_text(
        f"host all all 0.0.0.0/0 {method}\nhost all all ::/0 {method}\n", encoding="utf-8"
    )
    argv = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups",
            _postgres_tool("postgres"), "-D", str(data), "-h", f"{end.ipv4},{end.ipv6}",
            "-p", str(end.port), "-c", "unix_socket_directories=", "-c", "fsync=off",
            "-c", "shared_buffers=16MB", "-c", "max_connections=60"]  # fmt: skip
    if end.variant == "tls":
        for suffix in ("crt", "key"):
            shutil.copy(site.shared / f"rsa.{suffix}", data / f"server.{suffix}")
        (data / "server.key").chmod(0o600)
        give_to("postgres", data / "server.key", data / "server.crt")
        argv += ["-c", "ssl=on"]
    return [Command("postgres", argv)]


def _prepare_mysql(shared: Path) -> None:
    data = shared / "mysql"
    data.mkdir()
    give_to("mysql", data)
    must("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}",
         "--skip-test-db", "--auth-root-authentication-method=normal",
         "--innodb-log-file-size=8M")  # fmt: skip


def _mysql(site: Site) -> list[Command]:
    end = site.endpoint
    must("cp", "-a", str(site.shared / "mysql"), str(site.work / "data"))
    start = site.write(
        "init.sql",
        "CREATE DATABASE IF NOT EXISTS lab;\n"
        "CREATE USER IF NOT EXISTS 'lab'@'%' IDENTIFIED BY 'lab';\n"
        "GRANT ALL ON *.* TO 'lab'@'%';\n",
    )
    socket = site.folder("socket", 0o777)
    argv = ["mariadbd", "--no-defaults", "--user=mysql", f"--datadir={site.work}/data",
            f"--bind-address={end.ipv4},{end.ipv6}", f"--port={end.port}", "--skip-name-resolve",
            f"--socket={socket}/s", f"--pid-file={socket}/pid", f"--init-file={start}",
            "--innodb-log-file-size=8M", "--innodb-buffer-pool-size=16M",
            "--innodb-flush-log-at-trx-commit=0"]  # fmt: skip
    if end.variant == "tls":
        argv += [f"--ssl-cert={site.shared}/rsa.crt", f"--ssl-key={site.shared}/rsa.key"]
    return [Command("mariadbd", argv)]


def _redis(site: Site) -> list[Command]:
    end = site.endpoint
    argv = ["redis-server", "--bind", end.ipv4, end.ipv6, "--port", str(end.port),
            "--protected-mode", "no", "--save", "", "--dir", str(site.work)]  # fmt: skip
    if end.variant == "password":
        argv += ["--requirepass", "lab"]
    return [Command("redis-server", argv)]


def _memcached(site: Site) -> list[Command]:
    end = site.endpoint
    port = str(end.port)
    argv = ["memcached", "-u", "root", "-l", end.ipv4, "-l", end.ipv6, "-p", port, "-U", port]
    return [Command("memcached", argv)]


SERVICES = (
    Service(
        "postgresql",
        5432,
        {"plain": "postgresql", "tls": "postgresql"},
        _postgresql,
        _prepare_postgresql,
    ),
    Service(
        "mysql", 3306, {"plain": "mariadb-server", "tls": "mariadb-server"}, _mysql, _prepare_mysql
    ),
    Service("redis", 6379, {"plain": "redis-server", "password": "redis-server"}, _redis),
    Service("memcached", 11211, {"memcached": "memcached"}, _memcached, transports=("tcp", "udp")),
)
