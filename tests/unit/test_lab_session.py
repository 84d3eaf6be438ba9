"""What a client session has at hand: addresses, draws, and programs that end in time."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from lab.clients.base import Session
from lab.plan import Endpoint

END = Endpoint("http", "s0", "10.0.0.2", "fd00::2", 80, 8080, "nginx", 1)


def session(work: Path, seed: int = 1, address: str = "10.0.0.2", seconds: float = 60) -> Session:
    rng = random.Random(seed)
    return Session(rng, END, address, "10.0.0.9", work, work, time.monotonic() + seconds)


@pytest.mark.parametrize(
    ("address", "shown"), [("10.0.0.2", "10.0.0.2:80"), ("fd00::2", "[fd00::2]:80")]
)
def test_an_address_is_shown_as_urls_want_it(tmp_path: Path, address: str, shown: str) -> None:
    assert session(tmp_path, address=address).at == shown


def test_sizes_cover_the_orders_of_magnitude(tmp_path: Path) -> None:
    one = session(tmp_path)
    sizes = [one.size(1, 100_000) for _ in range(2000)]
    assert min(sizes) >= 1
    assert max(sizes) <= 100_000
    for power in range(5):
        share = sum(10**power <= size < 10 ** (power + 1) for size in sizes) / len(sizes)
        assert share == pytest.approx(0.2, abs=0.04)


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    one, two = session(tmp_path, 4), session(tmp_path, 4)
    assert [one.data(1, 500), one.word(), one.file()] == [two.data(1, 500), two.word(), two.file()]


def calm(work: Path, seconds: float = 60) -> Session:
    """A session whose first draw does not kill its program."""
    seed = next(seed for seed in range(99) if random.Random(seed).random() > 0.5)
    return session(work, seed, seconds=seconds)


def test_a_program_reads_its_input_and_none_of_the_users_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.test:3128")
    assert calm(tmp_path).run(["cat"], data=b"hello") == b"hello"
    output = calm(tmp_path).run(["env"], env={"EXTRA": "1"}).decode().splitlines()
    settings = dict(line.split("=", 1) for line in output)
    assert settings["HOME"] == str(tmp_path)
    assert settings["EXTRA"] == "1"
    assert "https_proxy" not in settings
    assert list(tmp_path.iterdir()) == []


def test_a_program_ends_with_its_limit_and_with_the_run(tmp_path: Path) -> None:
    start = time.monotonic()
    assert calm(tmp_path).run(["sleep", "30"], limit=0.2) == b""
    assert calm(tmp_path, seconds=-5).run(["sleep", "30"]) == b""
    assert time.monotonic() - start < 5
