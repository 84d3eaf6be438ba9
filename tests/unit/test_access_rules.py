"""Who may ask for what: keys are compared, followed, and bound to their collector."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments import access as access_module
from deployments.access import ANYBODY, Access, Caller, KeysFile
from deployments.api_keys import editing, new_key
from deployments.grpc_address import HOOK
from deployments.reach import HOOK_VALUE, access_of, is_loopback, keys_file_of
from flows.errors import ForbiddenError, SettingsError, UnauthenticatedError

SOON = datetime.now(UTC) + timedelta(hours=1)
AGO = datetime.now(UTC) - timedelta(hours=1)


def add(file: Path, collector: str, not_after: datetime | None = None) -> str:
    made = new_key(collector, not_after)
    with editing(file) as keys:
        keys.append(made.entry)
    return made.key


def bearer(key: str) -> list[str]:
    return [f"Bearer {key}"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def test_whoever_shows_a_key_is_known_by_it(file: Path) -> None:
    keys = {name: add(file, name, SOON) for name in ("edge-1", "edge-2", "*")}
    access = Access(KeysFile(file))
    for name, key in keys.items():
        assert access.caller(bearer(key)).collector == name
        assert access.caller([f"bearer {key}"]).collector == name, "schemes have no case"
    assert access.refused == {}


def test_what_is_not_shown_or_not_known_is_refused_and_counted(file: Path) -> None:
    good, expired = add(file, "edge-1"), add(file, "edge-2", AGO)
    counted: list[str] = []
    access = Access(KeysFile(file), on_refused=counted.append)
    changed = good[:-1] + ("A" if good[-1] != "A" else "B")
    cases: list[tuple[list[str], str, bool]] = [
        ([], "no_key", False),
        (bearer(changed), "bad_key", True),
        (bearer(new_key("edge-1").key), "bad_key", True),
        (bearer(good + "A"), "bad_key", True),
        (bearer("é" * 9_000), "bad_key", True),
        ([good], "bad_key", True),
        (["Bearer "], "bad_key", True),
        (["Basic " + good], "bad_key", True),
        (bearer(good) * 2, "bad_key", True),
        (bearer(expired), "expired_key", True),
    ]
    for shown, _, told_shown in cases:
        with pytest.raises(UnauthenticatedError) as refused:
            access.caller(shown)
        assert refused.value.shown is told_shown
        assert good not in str(refused.value)
    assert counted == [kind for _, kind, _ in cases]
    assert access.refused == {kind: counted.count(kind) for kind in counted}


def test_the_comparison_takes_the_same_way_whether_or_not_an_id_exists(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = add(file, "edge-1")
    access = Access(KeysFile(file))
    compared: list[tuple[int, int]] = []
    real = access_module.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr(access_module, "compare_digest", spy)
    for key in (good[:-4] + "AAAA", new_key("edge-1").key, "no key at all"):
        with pytest.raises(UnauthenticatedError):
            access.caller(bearer(key))
    assert compared == [(32, 32)] * 3


@pytest.mark.parametrize(
    ("collector", "may"),
    [
        ("edge-1", True),
        ("edge-1#0a1b", True),
        ("edge-1#", True),
        ("edge-2", False),
        ("edge-2#edge-1", False),
        ("edge-1#a#b", False),
        ("edge-10", False),
        ("#edge-1", False),
        ("", False),
        ("*", False),
    ],
)
def test_a_key_is_for_its_own_collectors_flows(collector: str, may: bool) -> None:
    access = Access()
    caller = Caller("0a1b2c3d", "edge-1")
    if may:
        access.speaks_for(caller, collector)
    else:
        with pytest.raises(ForbiddenError):
            access.speaks_for(caller, collector)
    assert access.refused == ({} if may else {"other_collector": 1})
    access.speaks_for(Caller("0a1b2c3d", "*"), collector)


def replace_whole(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def replace_by_rename(file: Path, content: bytes) -> None:
    other = file.with_suffix(".new")
    other.write_bytes(content)
    os.replace(other, file)


@pytest.mark.parametrize("replace", [replace_whole, replace_by_rename])
def test_another_file_counts_from_the_next_look_on(
    file: Path, tmp_path: Path, replace: Callable[[Path, bytes], None]
) -> None:
    old = add(file, "edge-1")
    keys = KeysFile(file)
    access = Access(keys)
    new = add(tmp_path / "other.yaml", "edge-1")
    replace(file, (tmp_path / "other.yaml").read_bytes())
    assert access.caller(bearer(old)).collector == "edge-1", "not looked at yet"
    keys.refresh()
    assert access.caller(bearer(new)).collector == "edge-1"
    with pytest.raises(UnauthenticatedError):
        access.caller(bearer(old))
    assert (keys.reloads, keys.failures) == (1, 0)


def test_a_secret_that_kubernetes_exchanges_is_noticed(tmp_path: Path) -> None:
    """A mounted Secret is a link to a link: `keys.yaml` → `..data/keys.yaml` → a folder's file."""
    for n in (1, 2):
        (tmp_path / f"..{n}").mkdir()
    one, two = (add(tmp_path / f"..{n}" / "keys.yaml", "edge-1") for n in (1, 2))
    stamp = (tmp_path / "..1" / "keys.yaml").stat()
    os.utime(tmp_path / "..2" / "keys.yaml", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    (tmp_path / "..data").symlink_to("..1")
    mounted = tmp_path / "keys.yaml"
    mounted.symlink_to("..data/keys.yaml")
    keys = KeysFile(mounted)
    assert Access(keys).caller(bearer(one))
    (tmp_path / "..data_tmp").symlink_to("..2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    keys.refresh()
    assert Access(keys).caller(bearer(two))


def test_a_damaged_file_leaves_the_keys_before_it_in_force_and_says_so(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = add(file, "edge-1")
    whole = file.read_bytes()
    keys = KeysFile(file)
    with caplog.at_level(logging.ERROR):
        for damage in (whole[:-10], b"", b"\xff"):
            file.write_bytes(damage)
            keys.refresh()
            assert Access(keys).caller(bearer(key))
        file.unlink()
        keys.refresh()
        assert Access(keys).caller(bearer(key))
    assert keys.failures == 4
    assert len(caplog.records) == 1, "said loudly, but not each second"
    assert "go on to hold" in caplog.text
    assert key not in caplog.text
    file.write_bytes(whole)
    keys.refresh()
    assert keys.reloads == 1


def test_a_damaged_file_at_the_start_is_refused(file: Path) -> None:
    file.write_text("keys: [")
    with pytest.raises(SettingsError, match="not YAML"):
        access_of(file, lambda _: None, lambda: "127.0.0.1")
    with pytest.raises(SettingsError, match="No such file"):
        access_of(file.with_name("gone"), lambda _: None, lambda: "127.0.0.1")


def test_whoever_stays_is_asked_again(file: Path) -> None:
    key = add(file, "edge-1")
    keys = KeysFile(file)
    access = Access(keys)
    caller = access.caller(bearer(key))
    access.still(caller)
    with editing(file) as entries:
        entries.clear()
    keys.refresh()
    with pytest.raises(UnauthenticatedError, match="no longer"):
        access.still(caller)


def test_without_keys_everybody_on_this_machine_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOOK, HOOK_VALUE)
    for host in ("127.0.0.1", "127.8.8.8", "localhost", "::1"):
        access = access_of(None, lambda _: None, lambda host=host: host)
        assert access.caller([]) == access.grpc_caller(SimpleNamespace()) == ANYBODY


EVERYWHERE = "0.0.0.0"  # noqa: S104 (nothing is bound)


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "10.0.0.9", "edge.example", None])
def test_beyond_loopback_nothing_is_served_without_keys(host: str | None) -> None:
    with pytest.raises(SettingsError, match="serveflow keys add"):
        access_of(None, lambda _: None, lambda: host)
    assert not is_loopback(host or "")


def test_grpc_that_listens_to_everybody_wants_keys(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    """By plain `serve run`, without the hook, Ray's gRPC servers listen on every address."""
    monkeypatch.delenv(HOOK, raising=False)
    access = access_of(None, lambda _: None, lambda: "127.0.0.1")
    assert access.caller([]) == ANYBODY
    with pytest.raises(UnauthenticatedError, match="SERVEFLOW_KEYS_FILE"):
        access.grpc_caller(SimpleNamespace())
    key = add(file, "edge-1")
    metadata: list[tuple[str, Any]] = [("other", "x"), ("authorization", f"Bearer {key}")]
    context = SimpleNamespace(invocation_metadata=lambda: metadata)
    with_keys = access_of(file, lambda _: None, lambda: EVERYWHERE)
    assert with_keys.grpc_caller(context).collector == "edge-1"


def test_the_setting_counts_more_than_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERVEFLOW_KEYS_FILE", raising=False)
    assert keys_file_of(None) is None
    monkeypatch.setenv("SERVEFLOW_KEYS_FILE", "/env")
    assert keys_file_of(None) == Path("/env")
    assert keys_file_of("/setting") == Path("/setting")
