"""Verdicts in Kafka, against librdkafka's mock cluster: real sockets, the real protocol."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from collectors.eve_sink import eve_lines
from collectors.kafka_sink import KafkaSink, read_properties
from collectors.queued_sink import QueuedSink, QueueSettings
from flows.errors import SettingsError, SinkError
from made_verdicts import made


@contextmanager
def cluster() -> Iterator[str]:
    """A cluster of three brokers; gives their addresses."""
    host = Producer({"test.mock.num.brokers": 3, "log_level": 0})
    listed = host.list_topics(timeout=20).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in listed)


@pytest.fixture(scope="module")
def brokers() -> Iterator[str]:
    with cluster() as addresses:
        yield addresses


def messages(brokers: str, topic: str, count: int) -> list[Any]:
    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": topic, "auto.offset.reset": "earliest",
         "session.timeout.ms": 6_000, "log_level": 0}
    )  # fmt: skip
    consumer.subscribe([topic])
    found: list[Any] = []
    until_s = time.monotonic() + 60
    while len(found) < count and time.monotonic() < until_s:
        found += [m for m in consumer.consume(1_000, 0.5) if m.error() is None]
    found += [m for m in consumer.consume(1_000, 0.3) if m.error() is None]
    consumer.close()
    return found


def test_each_verdict_is_one_message_keyed_by_its_community_id(brokers: str) -> None:
    found = made(5_000)
    sink = KafkaSink(brokers, "keyed")
    sink.write(found)
    sink.flush()
    sink.reopen()
    sink.close()
    arrived = messages(brokers, "keyed", 5_000)
    wanted = eve_lines(found)[0].tobytes().splitlines()
    assert sorted(m.value() for m in arrived) == sorted(wanted)
    partitions: dict[bytes, int] = {}
    for message in arrived:
        assert message.key().decode() == json.loads(message.value())["community_id"]
        assert partitions.setdefault(message.key(), message.partition()) == message.partition()
    assert len(set(partitions.values())) > 1


def test_what_did_not_arrive_is_told_and_counted() -> None:
    with cluster() as addresses:
        sink = KafkaSink(addresses, "away", timeout_s=3.0)
        sink.write(made(50))
    with pytest.raises(SinkError, match=r"50 messages did not arrive.*is the broker") as told:
        sink.write(made(50))
    assert list(told.value.left or []) == list(range(50))
    queued = QueuedSink("kafka", sink, QueueSettings(gather_s=0.0, retry_s=0.01))
    queued.write(made(50))
    queued.close(10.0)
    assert queued.counters().lost == {"sink_error": 50}
    assert "did not arrive" in queued.counters().last_error


class Forgotten:
    """A client whose broker has forgotten it: it tells so once, and takes nothing more."""

    def __init__(self) -> None:
        self.purged = False

    def produce_batch(self, topic: str, messages: list[dict[str, Any]], on_delivery: Any) -> int:
        return len(messages)

    def flush(self, timeout_s: float) -> int:
        raise KafkaException(KafkaError(KafkaError._FATAL, "Unknown Producer Id", fatal=True))

    def purge(self) -> None:
        self.purged = True


def test_a_client_that_takes_nothing_more_is_replaced(brokers: str) -> None:
    sink = KafkaSink(brokers, "forgotten")
    forgotten: Any = Forgotten()
    sink._producer = forgotten
    with pytest.raises(SinkError, match=r"30 messages did not arrive.*Unknown Producer Id") as told:
        sink.write(made(30))
    assert list(told.value.left or []) == list(range(30))
    sink.write(made(30))
    assert forgotten.purged
    assert len(messages(brokers, "forgotten", 30)) == 30
    sink._producer = forgotten
    sink.flush()
    sink.write(made(30))


def test_what_is_too_large_for_a_message_is_named_and_the_rest_arrives(brokers: str) -> None:
    sink = KafkaSink(brokers, "large", {"message.max.bytes": "1000"})
    found = made(20)
    found = replace(found, classes=("x" * 2_000, *found.classes[1:]))
    large = [k for k, label in enumerate(found.settled.verdicts["label"]) if label == 0]
    assert large
    with pytest.raises(SinkError, match=f"{len(large)} messages did not arrive.*size") as told:
        sink.write(found)
    assert list(told.value.left or []) == large
    assert len(messages(brokers, "large", 20 - len(large))) == 20 - len(large)


def test_settings_come_from_a_properties_file(tmp_path: Path, brokers: str) -> None:
    path = tmp_path / "kafka.properties"
    path.write_text(
        "# TLS\nsecurity.protocol = SASL_SSL\nsasl.mechanism=PLAIN\n\n"
        "sasl.username=edge\nsasl.password=a=b#c\n"
    )
    properties = read_properties(path)
    assert properties == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "edge",
        "sasl.password": "a=b#c",
    }
    sink = KafkaSink(brokers, "tls", properties, timeout_s=0.5)
    with pytest.raises(SinkError, match="did not arrive"):
        sink.write(made(1))  # the cluster speaks no TLS
    path.write_text("sasl.password\n")
    with pytest.raises(SettingsError, match="line 1: must be NAME=VALUE") as told:
        read_properties(path)
    assert "sasl" not in str(told.value)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_properties(tmp_path / "none")
    with pytest.raises(SettingsError, match="No such configuration property"):
        KafkaSink(brokers, "topic", {"no.such": "1"})
