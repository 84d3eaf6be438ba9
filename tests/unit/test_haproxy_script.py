"""What is put right in HAProxy's configuration before it starts (deployments/haproxy.sh)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from deployments.reach import HAPROXY_SCRIPT

# Ray's own template, as far as it matters here.
RAYS = """\
global
    maxconn 4096
defaults
    mode http
    timeout client 3600s
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind *:8000
    log global
frontend grpc_frontend
    bind *:9000 proto h2
    mode http
listen stats
  bind *:8404
  stats enable
"""


def run(folder: Path) -> str:
    """Start it as Ray does; return the configuration that is there then."""
    instead = folder / "haproxy"
    instead.write_text('#!/bin/sh\necho "$@" >"$(dirname "$0")/started"\n')
    instead.chmod(0o755)
    file = folder / "haproxy.cfg"
    subprocess.run(
        [HAPROXY_SCRIPT, "-db", "-f", file, "-dR"],
        env={**os.environ, "SERVEFLOW_HAPROXY": str(instead)},
        check=True,
        timeout=30,
    )
    assert (folder / "started").read_text() == f"-db -f {file} -dR\n"
    return file.read_text()


def test_statistics_go_to_loopback_and_headers_get_a_deadline(tmp_path: Path) -> None:
    (tmp_path / "haproxy.cfg").write_text(RAYS)
    lines = run(tmp_path).splitlines()
    assert "    bind 127.0.0.1:9101" in lines
    assert "  bind 127.0.0.1:8404" in lines
    assert "    bind *:8000" in lines, "where collectors come in stays as it was set"
    assert "    bind *:9000 proto h2" in lines
    assert lines[lines.index("defaults") + 2] == "    timeout http-request 10s"
    deny = [line for line in lines if "deny_status 400" in line]
    assert len(deny) == 1
    assert lines.index(deny[0]) == lines.index("    bind *:8000") + 1


def test_it_is_done_once(tmp_path: Path) -> None:
    (tmp_path / "haproxy.cfg").write_text(RAYS)
    once = run(tmp_path)
    assert run(tmp_path) == once


def test_rays_template_still_has_what_it_looks_for() -> None:
    """Ray may rename what the script finds by name: then it would do nothing, in silence."""
    from ray.serve._private import haproxy_templates

    template = haproxy_templates.HAPROXY_CONFIG_TEMPLATE.splitlines()
    for section, following in (
        ("defaults", "    mode http"),
        ("frontend prometheus", "    bind :{{ config.metrics_port }}"),
        ("listen stats", "  bind *:{{ config.stats_port }}"),
    ):
        assert template[template.index(section) + 1] == following
    assert template[template.index("frontend http_frontend") + 1].startswith("    bind ")
