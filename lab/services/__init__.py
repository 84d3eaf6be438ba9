"""The services of the lab, each a class of traffic."""

from __future__ import annotations

from lab.services import databases, files, mail, messaging, names, web
from lab.services.base import Service

__all__ = ["SERVICES", "by_name"]

SERVICES: tuple[Service, ...] = (
    *web.SERVICES,
    *names.SERVICES,
    *databases.SERVICES,
    *mail.SERVICES,
    *files.SERVICES,
    *messaging.SERVICES,
)


def by_name() -> dict[str, Service]:
    """Each service under its name."""
    return {service.name: service for service in SERVICES}
