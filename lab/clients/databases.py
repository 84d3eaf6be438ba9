"""Clients of PostgreSQL, MariaDB, Redis and memcached."""

from __future__ import annotations

import ssl
import time

import psycopg
import pymysql  # type: ignore[import-untyped]  # ships no types
import redis
from psycopg import sql
from pymemcache.client.base import (  # type: ignore[import-untyped]  # ships no types
    Client as MemcacheClient,
)

from lab.clients.base import PASSWORD, Session

__all__ = ["SESSIONS"]


def _statement(session: Session) -> str:
    rows = min(session.size(1, 3000), 900)
    width = min(session.size(1, 400), 200)
    numbers = f"SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}"  # noqa: S608
    return session.rng.choice(
        [
            "SELECT 1",
            "SELECT version()",
            "SELECT now()",
            f"SELECT repeat('x', {session.size(1, 100_000)})",
            f"WITH RECURSIVE n(i) AS ({numbers}) SELECT i, repeat('y', {width}) FROM n",  # noqa: S608
            f"SELECT * FROM no_such_table_{session.word(4)}",  # noqa: S608 - drawn, not given
        ]
    )


def _postgresql(session: Session) -> None:
    mode = session.rng.choice(["disable", "prefer", "prefer"])
    url = (
        f"host={session.address} port={session.port} user=lab dbname=postgres "
        f"connect_timeout=6 sslmode={mode} application_name={session.word()}"
    )
    env = {"PGPASSWORD": PASSWORD, "PGSSLMODE": mode}
    kind = session.rng.random()
    if kind < 0.3:
        text = ";\n".join(_statement(session) for _ in range(session.count(1, 2, 5)))
        session.run(["psql", url, "-X", "-q"], data=text.encode(), env=env)
        return
    if kind < 0.36:
        session.run(["pg_dump", "-s", url], env=env)
        return
    password = PASSWORD if session.chance(0.95) else "wrong"
    with psycopg.connect(url, password=password, autocommit=session.chance(0.5)) as made:
        cursor = made.cursor()
        for _ in range(session.count(1, 2, 3, 6, 10)):
            draw = session.rng.random()
            try:
                if draw < 0.6:
                    cursor.execute(sql.SQL(_statement(session)))
                    cursor.fetchall()
                elif draw < 0.8:
                    cursor.execute(
                        "SELECT %s::text, %s::int", (session.word(session.size(1, 5000)), 7)
                    )
                else:
                    cursor.execute("CREATE TEMP TABLE IF NOT EXISTS t (a int, b text)")
                    with cursor.copy("COPY t FROM STDIN") as copy:
                        for row in range(session.size(1, 400)):
                            copy.write_row((row, session.word(20)))
            except psycopg.Error:
                made.rollback()
            session.think(0.2)


def _mysql(session: Session) -> None:
    if session.chance(0.35):
        argv = ["mariadb", "--no-defaults", "-h", session.address, "-P", str(session.port), "-u",
                "lab", f"-p{PASSWORD}", "--connect-timeout=6", "-f"]  # fmt: skip
        if session.chance(0.4):
            argv.append("--ssl")
        if session.chance(0.3):
            argv.append("--compress")
        text = ";\n".join(_statement(session) for _ in range(session.count(1, 2, 5)))
        database = ["mysql"] if session.chance(0.3) else []
        session.run([*argv, *database], data=(text + ";\n").encode())
        return
    context = None
    if session.end.variant == "tls" and session.chance(0.6):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    made = pymysql.connect(
        host=session.address,
        port=session.port,
        user="lab" if session.chance(0.95) else "nobody",
        password=PASSWORD,
        database="lab",
        connect_timeout=6,
        read_timeout=8,
        ssl=context,
    )
    with made, made.cursor() as cursor:
        for _ in range(session.count(1, 2, 3, 6, 10)):
            try:
                if session.chance(0.7):
                    cursor.execute(_statement(session))
                    cursor.fetchall()
                else:
                    cursor.execute("CREATE TEMPORARY TABLE IF NOT EXISTS t (a INT, b TEXT)")
                    rows = [(n, session.word(20)) for n in range(session.size(1, 300))]
                    cursor.executemany("INSERT INTO t VALUES (%s, %s)", rows)
            except pymysql.MySQLError:
                made.ping()
            session.think(0.2)


def _redis_command(session: Session) -> list[str | bytes]:
    key = f"{session.word(2)}:{session.rng.randrange(100)}"
    draw = session.rng.random()
    if draw < 0.3:
        return ["SET", key, session.data(1, 60_000)]
    if draw < 0.6:
        return ["GET", key]
    if draw < 0.7:
        return ["LPUSH", f"l{key}", *[session.word(session.count(4, 40)) for _ in range(5)]]
    if draw < 0.8:
        return ["LRANGE", f"l{key}", "0", "-1"]
    return session.rng.choice([["PING"], ["INFO"], ["INCR", f"n{key}"], ["DBSIZE"], ["KEYS", "a*"]])


def _redis(session: Session) -> None:
    password = PASSWORD if session.end.variant == "password" else None
    kind = session.rng.random()
    cli = ["-h", session.address, "-p", str(session.port)] + (["-a", password] if password else [])
    if kind < 0.25:
        lines = [
            f"SET {session.word(4)} {session.word(session.size(1, 3000))}"
            for _ in range(session.count(1, 2, 5))
        ]
        text = "\n".join([*lines, "PING", ""])
        session.run(["redis-cli", *cli, *session.rng.choice([[], ["-3"]])], data=text.encode())
        return
    if kind < 0.3:
        session.run(["redis-benchmark", *cli, "-n", "40", "-c", str(session.count(1, 2)), "-q",
                     "-t", session.rng.choice(["get", "set", "ping"]),
                     "-P", str(session.count(1, 8)), "-d", str(session.size(1, 4000))])  # fmt: skip
        return
    made = redis.Redis(
        host=session.address,
        port=session.port,
        password=password if session.chance(0.95) else None,
        socket_timeout=6,
        socket_connect_timeout=6,
        protocol=session.count(2, 3),
    )
    with made:
        if kind < 0.42:
            _subscribe(session, made)
            return
        if kind < 0.55:
            pipe = made.pipeline(transaction=session.chance(0.5))
            for _ in range(session.count(3, 10, 40)):
                pipe.execute_command(*_redis_command(session))  # type: ignore[no-untyped-call]
            pipe.execute(raise_on_error=False)
            return
        for _ in range(session.count(1, 2, 5, 12)):
            made.execute_command(*_redis_command(session))  # type: ignore[no-untyped-call]
            session.think(0.15)


def _subscribe(session: Session, made: redis.Redis) -> None:
    """Wait for messages, and send them to whoever else waits."""
    channel = made.pubsub()  # type: ignore[no-untyped-call]
    channel.subscribe("news")
    until = time.monotonic() + min(session.rng.uniform(1, 6), session.remaining)
    while time.monotonic() < until:
        if session.chance(0.3):
            made.publish("news", session.data(1, 2000))
        channel.get_message(timeout=0.4)
    channel.close()


def _memcached(session: Session) -> None:
    if session.chance(0.15):
        with session.datagram() as made:
            for number in range(session.count(1, 1, 3, 6)):
                frame = bytes([0, number, 0, 0, 0, 1, 0, 0])
                text = session.rng.choice(
                    [b"get k1\r\n", b"version\r\n", b"set k1 0 0 4\r\nabcd\r\n"]
                )
                made.send(frame + text)
                made.recv(2000)
                session.think(0.1)
        return
    if session.chance(0.2):
        with session.connect() as made:
            for _ in range(session.count(1, 3)):
                made.sendall(
                    session.rng.choice([b"stats\r\n", b"version\r\n", b"gets a b c d\r\n"])
                )
                made.recv(8000)
                session.think(0.2)
            if session.chance(0.5):
                made.sendall(b"quit\r\n")
        return
    client = MemcacheClient((session.address, session.port), connect_timeout=6, timeout=6,
                            no_delay=session.chance(0.5))  # fmt: skip
    for _ in range(session.count(1, 2, 5, 12)):
        key = f"k{session.rng.randrange(60)}"
        draw = session.rng.random()
        if draw < 0.4:
            client.set(key, session.data(1, 60_000), noreply=session.chance(0.5))
        elif draw < 0.75:
            client.get(key)
        elif draw < 0.9:
            client.get_many([f"k{n}" for n in range(session.count(2, 10, 30))])
        else:
            client.delete(key)
        session.think(0.15)
    client.close()


SESSIONS = {
    "postgresql": _postgresql,
    "mysql": _mysql,
    "redis": _redis,
    "memcached": _memcached,
}
