"""Final verdicts as messages of a Kafka topic: EVE records, keyed by Community ID.

The client is confluent-kafka, which is librdkafka (docs/decisions/0006-dependencies.md).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from collectors.community_ids import community_ids
from collectors.eve_sink import eve_lines
from collectors.sinks import Verdicts
from flows.errors import SettingsError, SinkError

__all__ = ["KafkaSink", "read_properties"]

_KEY_BYTES = 30
_AT_ONCE = 4_096
_GRACE_S = 5.0  # beyond its own limit, for the client to say what became of messages

_log = logging.getLogger(__name__)


def read_properties(path: Path) -> dict[str, str]:
    """Read the client's settings, ``name = value`` a line; ``#`` begins a comment.

    Raises:
        SettingsError: The file cannot be read, or a line is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, sign, value = line.partition("=")
        if not sign or not name.strip():
            # The line itself may hold a password.
            raise SettingsError(f"{path}, line {number}: must be NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


class KafkaSink:
    """Sends verdicts to a topic, and waits until each one has arrived or not.

    Each is stored by all in-sync replicas, and by the client's own retries not twice; one whose
    fate is unknown is sent again, so that it may be there twice (same ``serveflow.flow_id``).

    Args:
        brokers: ``HOST:PORT``, several separated by commas.
        topic: The topic's name.
        properties: The client's settings by librdkafka's names, as for TLS and SASL; they go before
            those of this sink.
        timeout_s: When a message counts as not arrived.

    Raises:
        SettingsError: The client does not know a setting.
    """

    def __init__(
        self,
        brokers: str,
        topic: str,
        properties: dict[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self._topic = topic
        self._timeout_s = timeout_s
        self._trouble = ""  # what the client said last of its connections
        self._failed: dict[bytes, str] = {}
        self._fatal = False
        self._settings: dict[str, Any] = {
            "bootstrap.servers": brokers,
            "client.id": "serveflow",
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "lz4",
            "linger.ms": 5,
            "message.timeout.ms": int(timeout_s * 1e3),
            "queue.buffering.max.messages": 2 * _AT_ONCE,
            "queue.buffering.max.kbytes": 65_536,
            "log_level": 2,  # what goes wrong is told by errors, once and not twice a second
            "partitioner": "murmur2_random",  # as Java's clients do, so keys meet across clients
            **(properties or {}),
            "delivery.report.only.error": True,
            "error_cb": self._on_error,
            "logger": _log,
        }
        self._producer = self._connected()

    def write(self, found: Verdicts) -> None:
        """See :class:`collectors.sinks.Sink`."""
        text, line_ends = eve_lines(found)
        data, ends = text.tobytes(), line_ends.tolist()
        keys = community_ids(found.settled.flows).cells.tobytes()
        values = [data[begin : end - 1] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
        for at in range(0, len(values), _AT_ONCE):
            until = min(at + _AT_ONCE, len(values))
            messages = [
                {"key": keys[k * _KEY_BYTES : (k + 1) * _KEY_BYTES], "value": values[k]}
                for k in range(at, until)
            ]
            self._send(messages)
            if self._failed:
                left = [k for k in range(at, until) if values[k] in self._failed]
                raise SinkError(self._what_failed(), [*left, *range(until, len(values))])

    def flush(self) -> None:
        """Let the client see to its connections."""
        self._wait(0.0)

    def reopen(self) -> None:
        """Do nothing: there is no file."""

    def sync(self) -> None:
        """Do nothing: what is written is with the brokers."""

    def close(self) -> None:
        """See :class:`collectors.sinks.Sink`."""
        self._wait(0.0)

    def _send(self, messages: list[dict[str, Any]]) -> None:
        """Send messages; note in ``_failed`` those that have not arrived."""
        if self._fatal:
            self._producer.purge()
            self._producer, self._fatal = self._connected(), False
        self._failed = {}
        try:
            self._producer.produce_batch(self._topic, messages, on_delivery=self._on_delivery)
        except (BufferError, KafkaException) as error:
            self._trouble = str(error)
        for message in messages:
            if "_error" in message:
                self._failed[message["value"]] = str(message["_error"])
        if not self._wait(self._timeout_s + _GRACE_S):
            self._producer.purge()
            self._wait(_GRACE_S)
        if self._fatal:  # which messages have arrived is not known then
            self._failed = {message["value"]: self._trouble for message in messages}

    def _wait(self, most_s: float) -> bool:
        """Wait until the client has told of all messages; return whether it has."""
        try:
            return self._producer.flush(most_s) == 0
        except (KafkaException, SystemError) as error:
            # So it tells that it takes nothing more, as when the broker has forgotten it; a
            # SystemError where a callback happened to run just then.
            self._fatal = True
            self._trouble = str(error.__cause__ or error)
            return True

    def _on_delivery(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failed[message.value()] = error.str()
            self._fatal |= error.fatal()

    def _on_error(self, error: KafkaError) -> None:
        self._trouble = error.str()
        self._fatal |= error.fatal()

    def _connected(self) -> Producer:
        try:
            return Producer(self._settings)
        except KafkaException as error:
            raise SettingsError(f"kafka: {error.args[0].str()}") from None

    def _what_failed(self) -> str:
        why = next(iter(self._failed.values()))
        brokers = self._settings["bootstrap.servers"]
        said = f"; {self._trouble}" if self._trouble else ""
        return (
            f"kafka:{brokers}/{self._topic}: {len(self._failed)} messages did not arrive: {why}"
            f"{said}; is the broker there and the topic made?"
        )
