"""`serveflow keys` as an operator uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.access import Access, KeysFile
from flows.errors import SettingsError, UnauthenticatedError
from serveflow_app.cli import app
from serveflow_app.serve_config import check_access, default_config, load_config, override

EVERYWHERE = "0.0.0.0"  # noqa: S104 (nothing is bound)


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `serveflow keys ARGS --file … --json` and return what it says."""

    def run(*args: object) -> dict[str, Any]:
        capsys.readouterr()
        command = ["keys", *map(str, args), "--file", str(tmp_path / "keys.yaml"), "--json"]
        app(command, standalone_mode=False)
        said: dict[str, Any] = json.loads(capsys.readouterr().out)
        return said

    return run


def test_a_key_is_made_listed_checked_renewed_and_revoked(keys: Any, tmp_path: Path) -> None:
    old = keys("add", "edge-1")
    file, api_key_file = tmp_path / "keys.yaml", tmp_path / "api-key"
    api_key_file.write_text(old["key"] + "\n")
    access = Access(KeysFile(file))
    assert access.caller([f"Bearer {old['key']}"]).collector == "edge-1"
    assert keys("check", "--api-key-file", api_key_file)["collector"] == "edge-1"
    new = keys("add", "edge-1", "--days", 30)
    listed = keys("list")["keys"]
    assert [(one["id"], one["valid"]) for one in listed] == [(old["id"], True), (new["id"], True)]
    assert "key" not in listed[0], "it was shown once"
    assert listed[1]["not_after"] > new["created"]
    assert keys("revoke", old["id"])["revoked"] == [old["id"]]
    with pytest.raises(UnauthenticatedError):
        keys("check", "--api-key-file", api_key_file)
    assert [one["id"] for one in keys("list")["keys"]] == [new["id"]]


def test_people_see_the_key_on_standard_output_and_all_else_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app(["keys", "add", "edge-1", "--file", str(tmp_path / "k")], standalone_mode=False)
    said = capsys.readouterr()
    assert said.out.startswith("sfk_")
    assert said.out.count("\n") == 1
    assert "shown this once" in said.err
    assert said.out.strip() not in said.err


def test_what_cannot_be_is_refused(keys: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no name"):
        keys("add", "edge 1")
    keys("add", "*")
    with pytest.raises(SettingsError, match="no key 00000000"):
        keys("revoke", "00000000")
    with pytest.raises(SettingsError, match="days"):
        keys("add", "edge-1", "--days", "1e300")
    (tmp_path / "keys.yaml").write_text("keys: [")
    for command in (("list",), ("check",), ("add", "edge-1"), ("revoke", "00000000")):
        with pytest.raises(SettingsError, match="not YAML"):
            keys(*command)
    assert (tmp_path / "keys.yaml").read_text() == "keys: ["


def test_a_service_beyond_loopback_is_not_started_without_keys(
    keys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVEFLOW_KEYS_FILE", raising=False)
    base = load_config(default_config())
    check_access(base)  # as it comes: on loopback
    open_to_all = override(base, host=EVERYWHERE, args={})
    with pytest.raises(SettingsError, match="serveflow keys add"):
        check_access(open_to_all)
    keys("add", "edge-1")
    file = str(tmp_path / "keys.yaml")
    check_access(override(base, host=EVERYWHERE, args={"keys_file": file}))
    monkeypatch.setenv("SERVEFLOW_KEYS_FILE", file)
    check_access(open_to_all)
    Path(file).write_text("keys: [")
    for config in (open_to_all, base):
        with pytest.raises(SettingsError, match="not YAML"):
            check_access(config)
    with pytest.raises(SettingsError, match="keys_file"):
        override(base, args={"keys_file": "relative.yaml"})


def test_the_command_refuses_it_too(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERVEFLOW_KEYS_FILE", raising=False)
    done = cli("serve", "--host", EVERYWHERE)
    assert done.status == 1
    assert "serving on 0.0.0.0 would let anybody in" in done.out["error"]
