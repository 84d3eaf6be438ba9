"""gRPC in the configuration: on by default, off on request, and never half."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.errors import ServiceError, SettingsError
from serveflow_app.serve_config import default_config, grpc_port_of, load_config, override
from serveflow_app.service import Service
from serveflow_app.service_environment import service_settings
from serveflow_app.settings import DEFAULT_GRPC_PORT


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return load_config(default_config())


def written(folder: Path, config: dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def grpc_url(config: dict[str, Any]) -> str | None:
    service = Service(config)
    service.stop()
    return service.grpc_url


def test_it_is_served_beside_http(config: dict[str, Any]) -> None:
    assert grpc_port_of(config) == DEFAULT_GRPC_PORT
    assert grpc_url(config) == f"grpc://127.0.0.1:{DEFAULT_GRPC_PORT}"


def test_a_flag_moves_it_or_leaves_it_out(config: dict[str, Any]) -> None:
    assert grpc_port_of(override(config, grpc_port=9100, args={})) == 9100
    none = override(config, grpc_port=0, args={})
    assert grpc_port_of(none) == 0
    assert grpc_url(none) is None


def test_a_flag_brings_it_to_a_configuration_without(
    config: dict[str, Any], tmp_path: Path
) -> None:
    without = {key: value for key, value in config.items() if key != "grpc_options"}
    loaded = load_config(written(tmp_path, without))
    assert grpc_port_of(loaded) == 0
    moved = override(loaded, grpc_port=9100, args={})
    assert grpc_port_of(moved) == 9100
    assert (
        moved["grpc_options"]["grpc_servicer_functions"]
        == (config["grpc_options"]["grpc_servicer_functions"])
    )


@pytest.mark.parametrize(
    "name",
    [
        "flows.rpc.flow_classifier_pb2_grpc.add_Nothing_to_server",
        "nowhere.add_FlowClassifierServiceServicer_to_server",
        "nothing",
        "",
    ],
)
def test_a_servicer_that_cannot_be_imported_is_named(
    config: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """Ray would say so late, in another process's log."""
    changed = {**config, "grpc_options": {"grpc_servicer_functions": [name]}}
    with pytest.raises(SettingsError, match="cannot be imported; ServeFlow's is flows"):
        load_config(written(tmp_path, changed))


def test_http_and_grpc_cannot_share_a_port(config: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="cannot share port 9000"):
        override(config, port=9000, args={})


def test_a_port_that_is_taken_is_named(config: dict[str, Any]) -> None:
    with socket.socket() as held, socket.socket() as free:
        for one in (held, free):
            one.bind(("127.0.0.1", 0))
        held.listen()
        http, grpc = free.getsockname()[1], held.getsockname()[1]
        service = Service(override(config, port=http, grpc_port=grpc, args={}))
        with pytest.raises(ServiceError, match=f"grpc://127.0.0.1:{grpc} is taken.*--grpc-port"):
            service.start()
        service.stop()


def test_messages_are_limited_as_bodies_are(config: dict[str, Any]) -> None:
    limit = 32 * 1024 * 1024
    large = service_settings(override(config, args={"max_body_bytes": limit}))
    small = service_settings(override(config, args={"max_body_bytes": 1024}))
    name = "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE"
    assert limit < int(large[name]) < limit + 10_000
    assert int(small[name]) > 5_300_000, "the largest batch's verdicts must fit"


def test_it_keeps_to_loopback_where_http_does(config: dict[str, Any]) -> None:
    hook = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
    assert hook in service_settings(config)
    assert hook not in service_settings(override(config, host="0.0.0.0", args={}))  # noqa: S104
