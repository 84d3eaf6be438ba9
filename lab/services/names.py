"""DNS, NTP, SNMP and LDAP: names, time and directories."""

from __future__ import annotations

import random
from pathlib import Path

from lab.services.base import Command, Service, Site, must

__all__ = ["SERVICES"]


def _records() -> list[tuple[str, str, str]]:
    """Names of the zone ``lab.test``: owner, type and data."""
    rng = random.Random(11)
    records = []
    for index in range(200):
        owner = f"h{index}.lab.test"
        records.append((owner, "A", f"10.9.{index % 250}.{1 + index % 200}"))
        if index % 2:
            records.append((owner, "AAAA", f"fd00:9::{index:x}"))
        if index % 7 == 0:
            text = "".join(rng.choices("abcdefghijklmnop", k=rng.choice([20, 120, 250])))
            records.append((owner, "TXT", text))
    for index in range(10):
        records += [("many.lab.test", "A", f"10.8.{index}.{n}") for n in range(1, 6)]
    return records


def _dns(site: Site) -> list[Command]:
    end = site.endpoint
    if end.variant == "dnsmasq":
        lines = [f"port={end.port}", "bind-interfaces", "no-resolv", "no-hosts", "user=root",
                 f"listen-address={end.ipv4}", f"listen-address={end.ipv6}", "local=/lab.test/",
                 "edns-packet-max=1232"]  # fmt: skip
        for owner, kind, data in _records():
            if kind == "TXT":
                lines.append(f"txt-record={owner},{data}")
            else:
                lines.append(f"host-record={owner},{data}")
        conf = site.write("dnsmasq.conf", "\n".join(lines) + "\n")
        return [Command("dnsmasq", ["dnsmasq", "-k", "-C", str(conf), "-x", f"{site.work}/pid"])]
    minimal = site.rng.choice(["yes", "no"])
    lines = ["server:", "  do-daemonize: no", '  username: ""', '  chroot: ""', "  use-syslog: no",
             f'  pidfile: "{site.work}/pid"', f'  directory: "{site.work}"',
             f"  interface: {end.ipv4}@{end.port}", f"  interface: {end.ipv6}@{end.port}",
             f"  port: {end.port}", "  access-control: 0.0.0.0/0 allow",
             "  access-control: ::/0 allow", "  num-threads: 1", f"  minimal-responses: {minimal}",
             '  module-config: "iterator"',
             "  local-zone: lab.test. static"]  # fmt: skip
    for owner, kind, data in _records():
        quote = "'" if kind == "TXT" else '"'
        value = f'"{data}"' if kind == "TXT" else data
        lines.append(f"  local-data: {quote}{owner}. 300 IN {kind} {value}{quote}")
    lines += ["remote-control:", "  control-enable: no"]
    conf = site.write("unbound.conf", "\n".join(lines) + "\n")
    return [Command("unbound", ["unbound", "-d", "-p", "-c", str(conf)])]


def _ntp(site: Site) -> list[Command]:
    end = site.endpoint
    text = (
        f"local stratum {site.rng.randrange(2, 12)}\nallow\nport {end.port}\ncmdport 0\n"
        f"bindaddress {end.ipv4}\nbindaddress {end.ipv6}\npidfile {site.work}/pid\nuser root\n"
        f"bindcmdaddress /\n"
    )
    conf = site.write("chrony.conf", text)
    return [Command("chronyd", ["chronyd", "-x", "-d", "-f", str(conf)])]


def _snmp(site: Site) -> list[Command]:
    end = site.endpoint
    site.folder("state")
    text = (
        "rocommunity public\nrocommunity6 public\nrwcommunity private\n"
        'createUser lab SHA "labpassword" AES "labpassword"\nrouser lab priv\nrouser lab auth\n'
        "sysLocation a shelf in the lab\nsysContact nobody <nobody@lab.test>\n"
        f"[snmp] persistentDir {site.work}/state\n"
    )
    conf = site.write("snmpd.conf", text)
    argv = ["snmpd", "-f", "-Lo", "-C", "-c", str(conf), "-I", "-smux", "-p", f"{site.work}/pid",
            f"udp:{end.ipv4}:{end.port}", f"udp6:[{end.ipv6}]:{end.port}"]  # fmt: skip
    return [Command("snmpd", argv)]


def _slapd_conf(data: Path, extra: str = "") -> str:
    schemas = "".join(
        f"include /etc/ldap/schema/{name}.schema\n" for name in ("core", "cosine", "inetorgperson")
    )
    return (
        f"{schemas}modulepath /usr/lib/ldap\nmoduleload back_mdb\n{extra}"
        'database mdb\nsuffix "dc=lab,dc=test"\nrootdn "cn=admin,dc=lab,dc=test"\nrootpw lab\n'
        f"directory {data}\nmaxsize 16777216\naccess to * by * write\n"
    )


def _prepare_ldap(shared: Path) -> None:
    data = shared / "ldap"
    data.mkdir()
    rng = random.Random(3)
    entries = [
        "dn: dc=lab,dc=test\nobjectClass: dcObject\nobjectClass: organization\no: lab\ndc: lab\n"
    ]
    for index in range(150):
        note = "".join(rng.choices("abcdefgh ", k=rng.choice([10, 80, 400])))
        entries.append(
            f"dn: cn=user{index},dc=lab,dc=test\nobjectClass: inetOrgPerson\ncn: user{index}\n"
            f"sn: Number {index}\nmail: user{index}@lab.test\nuserPassword: lab\n"
            f"description: d{note}e\n"
        )
    (shared / "slapd.conf").write_text(_slapd_conf(data), encoding="utf-8")
    must("slapadd", "-f", str(shared / "slapd.conf"), data="\n".join(entries))


def _ldap(site: Site) -> list[Command]:
    end = site.endpoint
    must("cp", "-r", str(site.shared / "ldap"), str(site.work / "db"))
    tls = ""
    if site.rng.random() < 0.5:
        tls = (
            f"TLSCertificateFile {site.shared}/rsa.crt\n"
            f"TLSCertificateKeyFile {site.shared}/rsa.key\n"
        )
    conf = site.write(
        "slapd.conf", f"pidfile {site.work}/pid\n" + _slapd_conf(site.work / "db", tls)
    )
    urls = f"ldap://{end.ipv4}:{end.port}/ ldap://[{end.ipv6}]:{end.port}/"
    return [Command("slapd", ["slapd", "-d", "0", "-h", urls, "-f", str(conf)])]


SERVICES = (
    Service(
        "dns",
        53,
        {"unbound": "unbound", "dnsmasq": "dnsmasq-base"},
        _dns,
        transports=("tcp", "udp"),
        weight=1.8,
    ),
    Service("ntp", 123, {"chrony": "chrony"}, _ntp, transports=("udp",), weight=1.3),
    Service("snmp", 161, {"snmpd": "snmpd"}, _snmp, transports=("udp",), weight=1.5),
    Service("ldap", 389, {"slapd": "slapd"}, _ldap, _prepare_ldap),
)
