"""MQTT and SIP (with its RTP)."""

from __future__ import annotations

from lab.services.base import Command, Service, Site

__all__ = ["SERVICES"]


def _mqtt(site: Site) -> list[Command]:
    end = site.endpoint
    text = (
        f"listener {end.port} {end.ipv4}\nlistener {end.port} {end.ipv6}\nallow_anonymous true\n"
        f"persistence false\nuser root\nset_tcp_nodelay {site.rng.choice(['true', 'false'])}\n"
    )
    conf = site.write("mosquitto.conf", text)
    return [Command("mosquitto", ["mosquitto", "-c", str(conf)])]


def _sip(site: Site) -> list[Command]:
    end = site.endpoint
    commands = []
    for index, address in enumerate((end.ipv4, end.ipv6)):
        shown = address if index == 0 else f"[{address}]"
        for transport in ("u1", "t1"):
            # Each sipp takes the media port and the one two above, so keep well apart.
            media = end.aux_port + 12 * index + (6 if transport == "t1" else 0)
            argv = ["sipp", "-sn", "uas", "-i", shown, "-p", str(end.port), "-t", transport,
                    "-nostdin", "-rtp_echo", "-mi", shown, "-mp", str(media & ~1)]  # fmt: skip
            commands.append(Command(f"sipp-{transport}", argv))
    return commands


SERVICES = (
    Service("mqtt", 1883, {"mosquitto": "mosquitto"}, _mqtt),
    Service("sip", 5060, {"sipp": "sip-tester"}, _sip, transports=("tcp", "udp"), weight=1.2),
)
