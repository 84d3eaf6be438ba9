"""Settings come from file, environment and flags, in this order, and say where from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from collectors.agent_settings import (
    DEFAULT_TO,
    AgentSettings,
    as_bytes,
    bytes_in_words,
    host_and_port,
)
from collectors.open_source import SourceSettings
from collectors.settings_example import example_yaml
from collectors.settings_sources import (
    CONFIG_VARIABLE,
    all_settings,
    flag_of,
    load_settings,
    variable_of,
)
from flows.errors import SettingsError
from serveflow_app.settings import DEFAULT_URL

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "collectors" / "collect.example.yaml"


def written(folder: Path, text: str, name: str = "collect.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_each_layer_counts_more_than_the_one_before(tmp_path: Path) -> None:
    file = written(tmp_path, "name: a\nmemory: 64MiB\nspool:\n  folder: /a\n  max_bytes: 2GiB\n")
    environ = {"SERVEFLOW_COLLECT_SPOOL_FOLDER": "/b", "SERVEFLOW_COLLECT_NAME": "b", "PATH": "x"}
    loaded = load_settings(file, environ, {"name": "c", "to": None})
    found = loaded.settings
    assert (found.name, str(found.spool.folder), found.memory) == ("c", "/b", 64 << 20)
    assert found.spool.max_bytes == 2 << 30
    assert loaded.origins["name"] == "flag --name"
    assert loaded.origins["spool.folder"] == "environment SERVEFLOW_COLLECT_SPOOL_FOLDER"
    assert loaded.origins["memory"] == f"{file}:2"
    assert loaded.origins["spool.max_bytes"] == f"{file}:5"
    assert loaded.origins["to"] == "default"


def test_a_file_may_be_toml(tmp_path: Path) -> None:
    text = 'name = "a"\nsinks = ["eve:-"]\n\n[spool]\nfolder = "/a"\n'
    file = written(tmp_path, text, "c.toml")
    loaded = load_settings(file)
    assert loaded.settings.sinks == ("eve:-",)
    assert loaded.origins["spool.folder"] == f"{file}:5"


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "name: a\n")
    assert load_settings(None, {CONFIG_VARIABLE: str(file)}).settings.name == "a"
    assert load_settings(None, {CONFIG_VARIABLE: ""}).settings.name is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nmae: a\n", ":1: nmae: there is no such setting; did you mean name?"),
        (
            "spool:\n  folde: /a\n",
            ":2: spool.folde: there is no such setting; did you mean spool.f",
        ),
        ("folder: /a\n", "did you mean spool.folder?"),
        ("qqqq: a\n", "serveflow config show lists all"),
        ("api_key: abc\n", "secrets are given by file: api_key_file"),
        ("spool: /a\n", ":1: spool: must hold settings, not a value: spool.folder"),
        ("memory: 3 apples\n", ":1: memory: must be a number of bytes such as 64MiB"),
        ("memory: true\n", ":1: memory: must be a number of bytes such as 64MiB"),
        ("memory: -5\n", ":1: memory: should be greater than 0, is -5"),
        ("\nspool:\n  policy: drop\n", ":3: spool.policy: should be 'block', 'drop_oldest' or"),
        ("name: a\nname: b\n", ":2: name is given twice, first on 1"),
        ("name: 'a b'\n", ":1: name: "),
        ("to: service\n", ":1: to: must be an address such as http://HOST:8000"),
        ("sinks: [evil:/x]\n", ":1: sinks: must be one of eve:FILE"),
        ("sinks: eve:-\n", ":1: sinks: should be a valid tuple"),
        ("metrics: '::1:80'\n", ":1: metrics: must be HOST:PORT"),
        ("timeouts: {active_s: .inf}\n", ":1: timeouts.active_s: "),
        ("duration_s: 0\n", "duration_s: should be greater than 0"),
        ("interface: a\ncaptures: [b]\n", "collect.yaml:1) and captures ("),
        ("tls_cert_file: a\n", "tls_cert_file and tls_key_file go together"),
        ("- a\n", "settings were expected"),
        ("a: [\n", ": "),
        ("a: b: c\n", ":1: mapping values are not allowed here"),
        ("? [a]\n: b\n", ": "),
        ("\x00", "it cannot be read"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(SettingsError, match=r".") as caught:
        load_settings(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value) or "go together" in said


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SERVEFLOW_COLLECT_SPOL_FOLDER", "x", "did you mean SERVEFLOW_COLLECT_SPOOL_FOLDER?"),
        ("SERVEFLOW_COLLECT_API_KEY", "abc", "secrets are given by file"),
        ("SERVEFLOW_COLLECT_WATCH", "maybe", "SERVEFLOW_COLLECT_WATCH: watch: should be"),
        ("SERVEFLOW_COLLECT_SINKS", '["a', "SERVEFLOW_COLLECT_SINKS: must be values"),
        ("SERVEFLOW_COLLECT_SINKS", '"a', "SERVEFLOW_COLLECT_SINKS: must be values"),
    ],
)
def test_the_environment_is_checked_as_well(variable: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {variable: value})
    assert said in str(caught.value)
    assert "abc" not in str(caught.value)


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(SettingsError, match=str(path)):
            load_settings(path)
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"name: \xff\n")
    with pytest.raises(SettingsError, match="UTF-8"):
        load_settings(file)
    with pytest.raises(SettingsError, match=r"bad\.toml: "):
        load_settings(written(tmp_path, "a = [", "bad.toml"))


def test_several_values_stand_in_a_variable_as_words_or_as_json() -> None:
    for text in ("eve:- 'zeek:/a b'", '["eve:-", "zeek:/a b"]'):
        found = load_settings(None, {"SERVEFLOW_COLLECT_SINKS": text}).settings
        assert found.sinks == ("eve:-", "zeek:/a b")


def test_nothing_behind_a_name_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    file = written(tmp_path, "name:\nspool:\n  folder:\ntimeouts:\n")
    loaded = load_settings(file, {"SERVEFLOW_COLLECT_TO": ""}, {"captures": []})
    assert loaded.settings == AgentSettings()
    assert set(loaded.origins.values()) == {"default"}


def test_off_is_off_in_yaml_too(tmp_path: Path) -> None:
    found = load_settings(written(tmp_path, "metrics: off\n")).settings
    assert found.metrics == "off"
    assert found.metrics_address is None


@pytest.mark.parametrize(
    ("text", "count"),
    [("64MiB", 64 << 20), ("1.5GB", 1_500_000_000), ("4096", 4096), (" 2 kib ", 2048), (7, 7)],
)
def test_sizes_have_units(text: Any, count: int) -> None:
    assert as_bytes(text) == count
    assert as_bytes(bytes_in_words(count)) == count


def test_addresses_to_listen_on() -> None:
    assert host_and_port("[::1]:9105") == ("::1", 9105)
    for bad in ("", "a", ":1", "a:", "a:x", "a:65536", "::1:5", "[a]b:1", "[a:1]:2:3", "a:1²"):
        with pytest.raises(ValueError, match="HOST:PORT"):
            host_and_port(bad)


def test_every_setting_says_what_it_means_and_is_in_the_example() -> None:
    known = all_settings()
    assert len({variable_of(path) for path in known}) == len(known)
    assert len({flag_of(path) for path in known}) == len(known)
    text = EXAMPLE.read_text()
    for path, setting in known.items():
        assert len(setting.description) > 10, path
        assert f"{path.rpartition('.')[2]}:" in text, path
        if setting.default in (None, "", ()):
            assert setting.field.examples, path
    assert text == example_yaml(), "serveflow config example > collectors/collect.example.yaml"


def test_the_example_is_the_defaults_and_its_examples_are_good() -> None:
    assert load_settings(EXAMPLE).settings == AgentSettings()
    for path, setting in all_settings().items():
        for example in setting.field.examples or ():
            flags = {path: example}
            if path.startswith("tls_"):
                flags |= {"tls_cert_file": "/a", "tls_key_file": "/b"}
            assert load_settings(None, {}, flags).origins[path] == f"flag {flag_of(path)}"


def test_values_and_origins_are_told() -> None:
    loaded = load_settings(None, {}, {"sinks": ["eve:/a b"], "memory": "64MiB", "watch": "true"})
    rows = {path: (value, origin) for path, value, origin in loaded.rows()}
    assert rows["sinks"] == ("'eve:/a b'", "flag --sinks")
    assert rows["memory"][0] == "64MiB"
    assert rows["watch"][0] == "true"
    assert rows["name"] == ("-", "default")
    found = json.loads(json.dumps(loaded.to_dict()))
    assert found["memory"] == {"value": 64 << 20, "origin": "flag --memory"}
    assert found["spool.policy"]["value"] == "drop_newest"


def test_settings_become_those_of_the_parts() -> None:
    flags = {
        "interface": "eth0", "bpf": "tcp", "timeouts.active_s": 9, "batch.max_packets": 5,
        "batch.min_delay_s": 0.5, "spool.policy": "block", "api_key_file": "/k",
    }  # fmt: skip
    found = load_settings(None, {}, flags).settings
    assert found.source() == SourceSettings(interface="eth0", bpf="tcp")
    assert found.collector().timeouts.active_s == 9
    assert found.collector().max_batch_packets == 5
    assert found.delivery().batch_delay_s == 0.5
    assert found.delivery().give_up_after_s is None
    assert found.spooling().policy == "block"
    assert found.credentials().api_key_file == Path("/k")
    assert found.collector_name


def test_the_default_service_is_the_one_that_serve_starts() -> None:
    assert DEFAULT_TO == DEFAULT_URL


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        AgentSettings().name = "x"  # type: ignore[misc]


def test_the_example_is_plain_yaml() -> None:
    assert set(yaml.safe_load(EXAMPLE.read_text())) <= set(AgentSettings.model_fields)
