"""Clients of DNS, NTP, SNMP and LDAP."""

from __future__ import annotations

import socket
import struct
import time

import dns.flags
import dns.message
import dns.query
import ldap3  # type: ignore[import-untyped]  # ships no types

from lab.clients.base import PASSWORD, Session

__all__ = ["SESSIONS"]


def _name(session: Session) -> tuple[str, str]:
    kind = session.rng.choices(
        ["A", "AAAA", "TXT", "MX", "SRV", "NS", "HTTPS"], weights=[8, 6, 3, 1, 1, 1, 1]
    )[0]
    draw = session.rng.random()
    if draw < 0.7:
        return f"h{session.rng.randrange(200)}.lab.test", kind
    if draw < 0.8:
        return "many.lab.test", kind
    return f"{session.word(session.count(3, 12, 40))}.{session.word(5)}.lab.test", kind


def _dns(session: Session) -> None:
    if session.chance(0.4):
        argv = ["dig", "-p", str(session.port), f"@{session.address}", "+time=2", "+tries=2"]
        argv.append(
            session.rng.choice(["+noedns", "+dnssec", "+bufsize=512", "+nocookie", "+cookie"])
        )
        if session.chance(0.25):
            argv.append("+tcp")
        if session.chance(0.2):
            argv.append("+keepopen")
        for _ in range(session.count(1, 1, 1, 2, 4)):
            argv += _name(session)
        session.run(argv, limit=8)
        return
    over_tcp = session.chance(0.3)
    made = session.connect(4.0) if over_tcp else session.datagram()
    with made:
        # A stub asks for both address types at once; a forwarder keeps one socket for long.
        for _ in range(session.count(1, 1, 2, 2, 3, 8)):
            name, kind = _name(session)
            query = dns.message.make_query(name, kind, use_edns=session.chance(0.6))
            if session.chance(0.3):
                query.flags |= dns.flags.AD
            wire = query.to_wire()
            if over_tcp:
                made.sendall(struct.pack("!H", len(wire)) + wire)
            else:
                made.send(wire)
            if session.chance(0.7):
                made.recv(4096)
                session.think(0.2)


def _ntp_packet(version: int, mode: int) -> bytes:
    seconds = int(time.time()) + 2_208_988_800
    return struct.pack("!BBbb11I", version << 3 | mode, 0, 6, -20, *([0] * 9), seconds, 12345)


def _ntp(session: Session) -> None:
    if session.chance(0.25):
        burst = session.rng.choice(["iburst", "iburst maxsamples 2", "burst", ""])
        line = f"server {session.address} port {session.port} {burst}"
        own = [f"pidfile {session.work}/pid", "user root", "cmdport 0"]
        session.run(["chronyd", "-x", "-Q", "-t", "6", *own, line], limit=9)
        return
    with session.datagram() as made:
        if session.chance(0.3):
            made = _from_port_123(session, made)
        for _ in range(session.count(1, 1, 1, 2, 4, 8)):
            made.send(_ntp_packet(session.count(3, 4, 4), 3))
            made.recv(512)
            time.sleep(min(session.rng.choice([0.05, 1.0, 2.0, 2.0]), session.remaining))
    made.close()


def _from_port_123(session: Session, made: socket.socket) -> socket.socket:
    """A full client asks from NTP's own port; another session may hold it right now."""
    other = socket.socket(made.family, socket.SOCK_DGRAM)
    other.settimeout(2.0)
    try:
        other.bind((session.own, 123))
        other.connect((session.address, session.port))
    except OSError:
        other.close()
        return made
    return other


def _snmp(session: Session) -> None:
    prefix = "udp6:" if ":" in session.address else "udp:"
    target = f"{prefix}{session.host}:{session.port}"
    if session.chance(0.35):
        argv = ["-v3", "-u", "lab", "-l", "authPriv", "-a", "SHA", "-A", "labpassword",
                "-x", "AES", "-X", "labpassword"]  # fmt: skip
        if session.chance(0.4):
            argv = ["-v3", "-u", "lab", "-l", "authNoPriv", "-a", "SHA", "-A", "labpassword"]
    else:
        argv = [session.rng.choice(["-v1", "-v2c", "-v2c"]), "-c", "public"]
        if session.chance(0.06):
            argv[2] = "wrong"
    argv += ["-t", "1", "-r", "1", "-On", "-m", ""]
    roots = ["1.3.6.1.2.1.1", "1.3.6.1.2.1.2.2", "1.3.6.1.2.1.25.1", "1.3.6.1.2.1.4.20"]
    leaf = [f"1.3.6.1.2.1.1.{n}.0" for n in range(1, 7)] + ["1.3.6.1.2.1.25.1.1.0"]
    kind = session.rng.random()
    if kind < 0.4:
        chosen = session.rng.sample(leaf, k=session.count(1, 1, 2, 5))
        command = ["snmpget", *argv, target, *chosen]
    elif kind < 0.55:
        command = ["snmpgetnext", *argv, target, session.rng.choice(roots)]
    elif kind < 0.8 or "-v1" in argv:
        command = ["snmpwalk", *argv, target, session.rng.choice(roots)]
    else:
        repeat = f"-Cr{session.count(5, 10, 25)}"
        command = ["snmpbulkwalk", *argv, repeat, target, session.rng.choice(roots)]
    session.run(command, limit=8)


_BASE = "dc=lab,dc=test"
_ADMIN = f"cn=admin,{_BASE}"
_LDAP_ENVIRONMENT = {"LDAPTLS_REQCERT": "never"}


def _ldap_tools(session: Session) -> None:
    argv = ["-x", "-H", f"ldap://{session.at}"]
    if session.chance(0.5):
        argv += ["-D", _ADMIN, "-w", PASSWORD]
    # With a network timeout libldap gives up a TLS handshake that needs more than one round trip.
    argv += ["-Z"] if session.chance(0.3) else ["-o", "nettimeout=5"]
    if session.chance(0.25):
        name = session.word()
        entry = f"dn: cn={name},{_BASE}\nobjectClass: person\ncn: {name}\nsn: {name}\n"
        argv += ["-D", _ADMIN, "-w", PASSWORD] if "-D" not in argv else []
        session.run(["ldapadd", *argv], data=entry.encode(), env=_LDAP_ENVIRONMENT)
        return
    rule = session.rng.choice(["(cn=user1*)", "(mail=user7@lab.test)", "(objectClass=*)", "(sn=x)"])
    page = ["-E", f"pr={session.count(10, 40)}/noprompt"] if session.chance(0.3) else []
    session.run(["ldapsearch", *argv, "-b", _BASE, *page, rule], env=_LDAP_ENVIRONMENT)


def _ldap(session: Session) -> None:
    if session.chance(0.45):
        _ldap_tools(session)
        return
    server = ldap3.Server(
        session.address,
        port=session.port,
        connect_timeout=5,
        get_info=session.rng.choice([ldap3.NONE, ldap3.DSA, ldap3.ALL]),
    )
    user, password = (_ADMIN, PASSWORD) if session.chance(0.6) else (None, None)
    if session.chance(0.1):
        user, password = f"cn=user3,{_BASE}", session.word()
    with ldap3.Connection(server, user, password, receive_timeout=6) as made:
        for _ in range(session.count(1, 2, 4, 8)):
            number = session.rng.randrange(150)
            kind = session.rng.random()
            if kind < 0.7:
                rule = session.rng.choice([f"(cn=user{number})", f"(cn=user{number % 10}*)"])
                wanted = session.rng.choice([["cn"], ["*"], ["mail", "description"]])
                made.search(_BASE, rule, attributes=wanted, size_limit=session.count(0, 5))
            elif kind < 0.85:
                made.compare(f"cn=user{number},{_BASE}", "sn", f"Number {number}")
            else:
                change = {
                    "description": [(ldap3.MODIFY_REPLACE, [session.word(session.size(1, 2000))])]
                }
                made.modify(f"cn=user{number},{_BASE}", change)
            session.think(0.2)


SESSIONS = {"dns": _dns, "ntp": _ntp, "snmp": _snmp, "ldap": _ldap}
