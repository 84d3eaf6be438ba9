"""Clients of MQTT and SIP (with its RTP)."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from lab.clients.base import Session

__all__ = ["SESSIONS"]

_SOUNDS = Path("/usr/share/sip-tester")
"""Where Debian has the recorded speech that sipp's calls with media send."""


def _mqtt(session: Session) -> None:
    topic = f"lab/{session.word(2)}/{session.rng.randrange(5)}"
    version = session.rng.choice(["mqttv31", "mqttv311", "5"])
    common = ["-h", session.address, "-p", str(session.port), "-q", str(session.count(0, 1, 2)),
              "-V", version, "-k", str(session.count(5, 30))]  # fmt: skip
    draw = session.rng.random()
    if draw < 0.3:
        argv = ["mosquitto_pub", *common, "-t", topic]
        if session.chance(0.5):
            (session.work / "body").write_bytes(session.data(1, 80_000))
            session.run([*argv, "-f", f"{session.work}/body"])
        else:
            lines = "\n".join(
                session.word(session.count(3, 30)) for _ in range(session.count(1, 5, 15))
            )
            session.run([*argv, "-l"], data=lines.encode())
        return
    if draw < 0.45:
        wait = session.count(1, 2, 5, 9)
        session.run(["mosquitto_sub", *common, "-t", "lab/#", "-W", str(wait)], limit=wait + 3)
        return
    _paho(session, topic)


def _paho(session: Session, topic: str) -> None:
    version = session.rng.choice([MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=session.word(12), protocol=version)
    ready = threading.Event()
    client.on_connect = lambda *_: ready.set()
    client.connect(session.address, session.port, keepalive=session.count(3, 15, 60))
    client.loop_start()
    try:
        ready.wait(5)
        if session.chance(0.6):
            client.subscribe([("lab/#", session.count(0, 1, 2))])
        for _ in range(session.count(0, 1, 3, 8, 15)):
            client.publish(topic, session.data(1, 20_000), qos=session.count(0, 0, 1, 2))
            session.think(0.3)
        if session.chance(0.3):
            time.sleep(min(session.rng.uniform(1, 8), session.remaining))
        if session.chance(0.9):
            client.disconnect()
    finally:
        client.loop_stop()


def _sip(session: Session) -> None:
    # sipp's uas answers INVITE, ACK and BYE; one call or several share or do not share a socket.
    calls = session.count(1, 1, 1, 2, 3)
    transport = session.rng.choice(["u1", "u1", "un", "t1", "tn"])
    source = f"[{session.own}]" if ":" in session.own else session.own
    scenario = "uac"
    if session.chance(0.3):
        # A call with speech: RTP both ways, since the server echoes it.
        scenario, transport, calls = "uac_pcap", "u1", 1
        (session.work / "pcap").symlink_to(_SOUNDS)
    argv = ["sipp", "-sn", scenario, session.at, "-i", source, "-mi", source, "-mp",
            str(session.rng.randrange(5_000, 30_000) * 2), "-p",
            str(session.rng.randrange(10_000, 60_000)), "-m", str(calls), "-r",
            str(session.count(1, 2, 10)), "-l", "10", "-d", str(session.size(50, 4000)), "-t",
            transport, "-nostdin", "-s", session.word(), "-timeout", "12", "-max_socket", "20",
            "-recv_timeout", "5000"]  # fmt: skip
    session.run(argv, limit=14)


SESSIONS = {"mqtt": _mqtt, "sip": _sip}
