"""The keys file: what it holds, how it is written, and what is refused."""

from __future__ import annotations

import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployments.api_keys import digest_of, editing, id_of, new_key, read_keys
from flows.errors import SettingsError

AGO = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def add(file: Path, collector: str, not_after: datetime | None = None) -> str:
    made = new_key(collector, not_after)
    with editing(file) as keys:
        keys.append(made.entry)
    return made.key


def test_the_file_holds_digests_and_no_key(file: Path) -> None:
    key = add(file, "edge-1")
    text = file.read_text()
    (entry,) = read_keys(file)
    assert id_of(key) == entry.id
    assert bytes.fromhex(entry.digest) == digest_of(key, bytes.fromhex(entry.salt))
    assert key not in text
    assert key.rpartition("_")[2] not in text


def test_keys_and_digests_are_never_the_same_twice() -> None:
    made = [new_key("edge-1") for _ in range(200)]
    assert len({one.key for one in made}) == len({one.entry.digest for one in made}) == 200
    assert digest_of(made[0].key, bytes(16)) != digest_of(made[0].key, bytes([1] * 16))


def test_it_is_its_users_alone_and_stays_so(file: Path) -> None:
    add(file, "edge-1")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    add(file, "edge-2")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(file.parent) == [file.name], "nothing is left beside it"


def test_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    real = tmp_path / "there" / "real.yaml"
    add(real, "edge-1")
    file.symlink_to(real)
    add(file, "edge-2")
    assert file.is_symlink()
    assert len(read_keys(real)) == 2


def test_two_keys_of_a_collector_count_at_a_time_and_no_third(file: Path) -> None:
    add(file, "edge-1")
    add(file, "edge-1")
    before = file.read_bytes()
    with pytest.raises(SettingsError, match="revoke the old one first"):
        add(file, "edge-1")
    assert file.read_bytes() == before
    add(file, "edge-2")


def test_expired_keys_do_not_count_towards_the_two(file: Path) -> None:
    for _ in range(3):
        add(file, "edge-1", AGO)
    add(file, "edge-1")
    add(file, "edge-1")
    assert [key.valid_at(datetime.now(UTC)) for key in read_keys(file)] == [False] * 3 + [True] * 2


def test_editors_wait_for_each_other(file: Path) -> None:
    names = sorted(f"edge-{i}" for i in range(16))
    threads = [threading.Thread(target=add, args=(file, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.collector for key in read_keys(file)) == names


def test_what_fails_while_editing_leaves_the_file_as_it_was(file: Path) -> None:
    add(file, "edge-1")
    before = file.read_bytes()
    with pytest.raises(IndexError), editing(file) as keys:
        del keys[0], keys[0]
    assert file.read_bytes() == before


@pytest.mark.parametrize("name", ["", "edge 1", "edge#1", "a/b", "x" * 101, "**", "edge\n"])
def test_what_no_collector_can_be_called_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="no name of a collector"):
        new_key(name)


HEX = "ab" * 16
GOOD = f"""\
version: 1
keys:
- id: 0a1b2c3d
  collector: edge-1
  salt: {HEX}
  digest: {HEX}{HEX}
  created: 2026-01-01T00:00:00Z
"""


def test_the_form_of_these_tests_is_a_good_one(file: Path) -> None:
    file.write_text(GOOD)
    assert [key.id for key in read_keys(file)] == ["0a1b2c3d"]


@pytest.mark.parametrize(
    ("damaged", "told"),
    [
        ("", "valid dictionary"),
        ("{", "not YAML"),
        ("\x00", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("version: 2\nkeys: []", "version"),
        ("version: 1", "keys"),
        ("version: 1\nkeys: []\nmore: 1", "more"),
        (GOOD.replace(HEX, HEX[2:]), "salt"),
        (GOOD.replace("2026-01-01T00:00:00Z", "2026-01-01T00:00:00"), "created"),
        (GOOD + GOOD.partition("keys:\n")[2], "stands there twice"),
        (GOOD.partition("  digest")[0], "digest"),
        ("[" * 100_000, "not YAML"),
    ],
)
def test_a_damaged_file_is_refused_and_named(file: Path, damaged: str, told: str) -> None:
    file.write_text(damaged)
    with pytest.raises(SettingsError, match=told) as refused:
        read_keys(file)
    assert str(file) in str(refused.value)
    assert HEX not in str(refused.value), "nothing of the file is told"


def test_a_file_of_bytes_that_are_no_text_is_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe" * 50)
    with pytest.raises(SettingsError, match="not YAML"):
        read_keys(file)


def test_a_file_that_is_too_large_is_not_read(file: Path) -> None:
    file.write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    with pytest.raises(SettingsError, match="over 4,194,304 bytes"):
        read_keys(file)


def test_a_file_that_anybody_may_write_to_is_refused(file: Path) -> None:
    file.write_text(GOOD)
    file.chmod(0o666)
    with pytest.raises(SettingsError, match="chmod o-w"):
        read_keys(file)


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read_keys(file)
    with pytest.raises(SettingsError, match="No such file"), editing(file / "in" / "it"):
        pass
