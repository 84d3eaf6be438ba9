"""The images: what they copy is there and reaches the builder, what is locked is complete."""

from __future__ import annotations

import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from conftest import ROOT

FILES = {"service": "Dockerfile", "collector": "collector.Dockerfile"}
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
)


def instructions(image: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, without comments, a line each."""
    text = (ROOT / "docker" / FILES[image]).read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2]) for line in text.splitlines() if line.strip()]


def copied(image: str) -> list[str]:
    """Return what is copied out of the repository."""
    found = []
    for name, rest in instructions(image):
        if name == "COPY":
            *sources, _ = [word for word in rest.split() if not word.startswith("--")]
            found += sources
    return found


def ignored(path: str) -> bool:
    """Tell whether .dockerignore keeps ``path`` away: the last pattern that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parents = [path, *(parent.as_posix() for parent in Path(path).parents)]
        pattern = pattern.removeprefix("**/")
        anywhere = line.removeprefix("!").startswith("**/")
        names = [part for p in parents for part in ([p, Path(p).name] if anywhere else [p])]
        if any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for name in names):
            out = not line.startswith("!")
    return out


def locked(image: str) -> dict[str, str]:
    text = (ROOT / "docker" / f"requirements-{image}.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("image", FILES)
def test_what_is_copied_is_there_and_reaches_the_builder(image: str) -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    sources = copied(image)
    assert len(sources) > 5
    for source in sources:
        files = [name for name in tracked if name == source or name.startswith(f"{source}/")]
        assert files, f"{source} is not in the repository"
        assert not any(ignored(name) for name in files), source


@pytest.mark.parametrize(
    "path", [".git/config", "tests/conftest.py", ".venv/bin/python", "docs/images/latency.png",
             "flows/__pycache__/x.pyc", "lab/captures/test/run-01.pcap", "flows/rpc/a.nbi"],
)  # fmt: skip
def test_nothing_else_reaches_the_builder(path: str) -> None:
    assert ignored(path)


@pytest.mark.parametrize("image", FILES)
def test_every_package_of_ours_is_in_the_image(image: str) -> None:
    """The command line names all parts: what one imports must be there."""
    assert {"flows", "collectors", "models", "deployments", "serveflow_app", "benchmarks"} <= set(
        copied(image)
    )


@pytest.mark.parametrize("image", FILES)
def test_locks_have_hashes_keep_to_the_pins_and_name_no_host(image: str) -> None:
    text = (ROOT / "docker" / f"requirements-{image}.txt").read_text()
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    assert len(entries) == len(locked(image))
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert "index" not in text
    pins = {name.lower().replace("_", "-").replace(".", "-"): pin for name, pin in PINS.items()}
    for name, version in locked(image).items():
        pin = pins.get(name.lower().replace("_", "-").replace(".", "-"))
        assert pin in (None, version), f"{name} is {version}, constraints.txt says {pin}"


@pytest.mark.parametrize(
    ("image", "extras"),
    [("service", ["grpc", "models", "serve"]), ("collector", ["grpc", "kafka"])],
)
def test_locks_hold_what_pyproject_wants(image: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    names = {re.split(r"[\[>=<]", one)[0].lower() for one in wanted} - {"serveflow"}
    assert names <= set(locked(image))


def test_the_collectors_image_has_neither_ray_nor_torch() -> None:
    assert not {"ray", "torch", "onnxruntime", "fastapi", "scikit-learn"} & set(locked("collector"))
    assert "torch" not in locked("service")


def test_the_service_is_of_the_ray_that_is_pinned() -> None:
    tag = f"rayproject/ray:{PINS['ray']}-py311-cpu"
    text = (ROOT / "docker" / "Dockerfile").read_text()
    assert ("ARG", f"BASE={tag}") in instructions("service")
    assert set(re.findall(r"rayproject/ray:[\w.-]+", text)) == {tag}
    assert locked("service")["ray"] == PINS["ray"]


@pytest.mark.parametrize("image", FILES)
def test_images_run_as_a_numbered_user_who_is_not_root(image: str) -> None:
    users = [rest for name, rest in instructions(image) if name == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    labels = " ".join(rest for name, rest in instructions(image) if name == "LABEL")
    for label in ("title", "description", "licenses", "base.name"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert f'org.opencontainers.image.version="{version}"' in labels
