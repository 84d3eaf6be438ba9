"""SMTP, IMAP and POP3."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from lab.services.base import Command, Service, Site, give_to, must

__all__ = ["SERVICES"]

_EXIM = """\
primary_hostname = mx.lab.test
spool_directory = {work}/spool
log_file_path = {work}/log-%s
pid_file_path = {work}/pid
local_interfaces = <; {v4}.{port} ; [{v6}]:{port}
host_lookup =
rfc1413_query_timeout = 0s
smtp_banner = $primary_hostname ESMTP
acl_smtp_rcpt = accept
acl_smtp_data = accept
tls_advertise_hosts = {tls}
tls_certificate = {shared}/rsa.crt
tls_privatekey = {shared}/rsa.key
pipelining_advertise_hosts = {pipelining}
chunking_advertise_hosts = {pipelining}
begin routers
sink:
  driver = redirect
  data = :blackhole:
"""

_DOVECOT = """\
protocols = {protocol}
base_dir = {work}/run
state_dir = {work}/run
log_path = {work}/log
listen = {v4}, {v6}
ssl = {ssl}
ssl_cert = <{shared}/rsa.crt
ssl_key = <{shared}/rsa.key
mail_location = maildir:{work}/mail/%u
disable_plaintext_auth = no
first_valid_uid = 1
passdb {{
  driver = static
  args = password=lab
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={work}/mail/%u
}}
service {protocol}-login {{
  inet_listener {protocol} {{
    port = {port}
  }}
  inet_listener {protocol}s {{
    port = 0
  }}
}}
"""


def _smtp(site: Site) -> list[Command]:
    end = site.endpoint
    if end.variant == "aiosmtpd":
        return [
            Command(
                "aiosmtpd",
                [sys.executable, "-m", "aiosmtpd", "-n", "-l", f"{address}:{end.port}",
                 "-c", "aiosmtpd.handlers.Sink"],
            )
            for address in (end.ipv4, end.ipv6)
        ]  # fmt: skip
    text = _EXIM.format(
        work=site.work,
        shared=site.shared,
        v4=end.ipv4,
        v6=end.ipv6,
        port=end.port,
        tls=site.rng.choice(["*", "*", ""]),
        pipelining=site.rng.choice(["*", "*", ""]),
    )
    conf = site.write("exim.conf", text)
    give_to("Debian-exim", site.folder("spool"), site.work)
    give_to("root", conf)
    return [Command("exim", ["exim4", "-bdf", "-C", str(conf)])]


def _prepare_mail(shared: Path) -> None:
    rng = random.Random(5)
    for user in range(8):
        box = shared / "mail" / f"user{user}"
        for part in ("cur", "new", "tmp"):
            (box / part).mkdir(parents=True, exist_ok=True)
        for number in range(rng.randrange(2, 25)):
            words = rng.choices(
                ["alpha", "beta", "gamma", "delta", "omega"], k=rng.randrange(5, 3000)
            )
            lines = "\n".join(" ".join(words[n : n + 10]) for n in range(0, len(words), 10))
            (box / "new" / f"{1000 + number}.lab").write_text(
                f"From: a@lab.test\nTo: user{user}@lab.test\nSubject: note {number}\n"
                f"Message-ID: <{user}.{number}@lab.test>\n\n{lines}\n",
                encoding="utf-8",
            )


def _dovecot(site: Site, protocol: str) -> list[Command]:
    end = site.endpoint
    must("cp", "-r", str(site.shared / "mail"), str(site.work / "mail"))
    give_to("mail", site.work / "mail")
    text = _DOVECOT.format(
        protocol=protocol,
        work=site.work,
        shared=site.shared,
        v4=end.ipv4,
        v6=end.ipv6,
        port=end.port,
        ssl="yes" if end.variant == "starttls" else "no",
    )
    conf = site.write("dovecot.conf", text)
    return [Command("dovecot", ["dovecot", "-F", "-c", str(conf)])]


def _imap(site: Site) -> list[Command]:
    return _dovecot(site, "imap")


def _pop3(site: Site) -> list[Command]:
    return _dovecot(site, "pop3")


SERVICES = (
    Service("smtp", 25, {"exim": "exim4-daemon-light", "aiosmtpd": "aiosmtpd"}, _smtp),
    Service(
        "imap", 143, {"plain": "dovecot-imapd", "starttls": "dovecot-imapd"}, _imap, _prepare_mail
    ),
    Service("pop3", 110, {"plain": "dovecot-pop3d", "starttls": "dovecot-pop3d"}, _pop3),
)
