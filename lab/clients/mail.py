"""Clients of SMTP, IMAP and POP3."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
import ssl

from lab.clients.base import PASSWORD, Session

__all__ = ["SESSIONS"]


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _message(session: Session) -> str:
    words = session.rng.choices(["red", "green", "blue", "black", "white"], k=session.size(3, 9000))
    lines = "\r\n".join(" ".join(words[n : n + 11]) for n in range(0, len(words), 11))
    return f"From: a@lab.test\r\nTo: b@lab.test\r\nSubject: {session.word(20)}\r\n\r\n{lines}\r\n"


def _smtp(session: Session) -> None:
    kind = session.rng.random()
    (session.work / "mail").write_text(_message(session), encoding="utf-8")
    if kind < 0.2:
        argv = ["swaks", "-s", session.address, "-p", str(session.port), "-t", "b@lab.test", "-f",
                "a@lab.test", "-n", "-d", f"@{session.work}/mail", "--timeout", "8"]  # fmt: skip
        session.run(argv + session.rng.choice([[], ["-tlso"], ["--pipeline"], ["-q", "RCPT"]]))
        return
    if kind < 0.4:
        argv = ["curl", "-s", "-g", "-k", "-m", "15", f"smtp://{session.at}/{session.word()}.test",
                "--mail-from", "a@lab.test"]  # fmt: skip
        for number in range(session.count(1, 1, 3)):
            argv += ["--mail-rcpt", f"r{number}@lab.test"]
        argv += session.rng.choice([[], ["--ssl"]])
        session.run([*argv, "-T", str(session.work / "mail")])
        return
    with smtplib.SMTP(
        session.address, session.port, local_hostname=session.word(), timeout=8
    ) as made:
        made.ehlo() if session.chance(0.8) else made.helo()
        if made.has_extn("starttls") and session.chance(0.4):
            made.starttls(context=_context())
            made.ehlo()
        for _ in range(session.count(0, 1, 1, 1, 2, 4)):
            to = [f"r{n}@lab.test" for n in range(session.count(1, 1, 2, 6))]
            made.sendmail("a@lab.test", to, _message(session))
            session.think(0.3)
        if session.chance(0.1):
            made.verify("root")


def _imap(session: Session) -> None:
    user = f"user{session.rng.randrange(8)}"
    if session.chance(0.3):
        url = f"imap://{session.at}/INBOX"
        tail = session.rng.choice(["", f";MAILINDEX={session.count(1, 2, 5)}", "?ALL", "?UNSEEN"])
        tls = ["--ssl"] if session.chance(0.4) else []
        session.run(
            ["curl", "-s", "-g", "-k", "-m", "15", *tls, "-u", f"{user}:{PASSWORD}", url + tail]
        )
        return
    made = imaplib.IMAP4(session.address, session.port, timeout=8)
    try:
        if session.end.variant == "starttls" and session.chance(0.5):
            made.starttls(_context())
        made.login(user, PASSWORD if session.chance(0.95) else "wrong")
        made.select("INBOX")
        for _ in range(session.count(1, 2, 4, 8)):
            draw = session.rng.random()
            number = str(session.rng.randrange(1, 10))
            if draw < 0.35:
                parts = session.rng.choice(
                    ["(RFC822)", "(FLAGS)", "(BODY.PEEK[HEADER])", "(ENVELOPE)"]
                )
                made.fetch(session.rng.choice([number, f"1:{number}"]), parts)
            elif draw < 0.6:
                made.search(None, session.rng.choice(["ALL", "UNSEEN", '(BODY "omega")']))
            elif draw < 0.75:
                made.store(number, "+FLAGS", "\\Seen")
            elif draw < 0.9:
                made.append("INBOX", "", "", _message(session).encode())
            else:
                made.noop()
            session.think(0.3)
        made.logout()
    except imaplib.IMAP4.error:
        made.shutdown()


def _pop3(session: Session) -> None:
    user = f"user{session.rng.randrange(8)}"
    if session.chance(0.3):
        tail = session.rng.choice(["", "/1", "/3"])
        tls = ["--ssl"] if session.chance(0.4) else []
        session.run(["curl", "-s", "-g", "-k", "-m", "15", *tls, "-u", f"{user}:{PASSWORD}",
                     f"pop3://{session.at}{tail}"])  # fmt: skip
        return
    made = poplib.POP3(session.address, session.port, timeout=8)
    try:
        if session.end.variant == "starttls" and session.chance(0.5):
            made.stls(_context())
        if session.chance(0.5):
            made.capa()
        made.user(user)
        made.pass_(PASSWORD if session.chance(0.95) else "wrong")
        count, _ = made.stat()
        if session.chance(0.5):
            made.list()
        if session.chance(0.5):
            made.uidl()
        for number in range(1, min(count, session.count(1, 2, 5, 10)) + 1):
            if session.chance(0.7):
                made.retr(number)
            else:
                made.top(number, session.count(0, 10))
            session.think(0.15)
        made.quit()
    except poplib.error_proto:
        made.close()


SESSIONS = {"smtp": _smtp, "imap": _imap, "pop3": _pop3}
