"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "flows", "collectors", "models", "deployments", "serveflow_app", "benchmarks", "lab", "tools",
)  # fmt: skip
# Imports run downwards only: what each package may import of the others.
ARROWS = {
    "flows": set(),
    "collectors": {"flows"},
    "models": {"flows"},
    "deployments": {"flows", "models"},
    "serveflow_app": {"flows", "models", "deployments", "collectors"},
    "benchmarks": {"flows", "models", "deployments", "collectors", "serveflow_app"},
    "lab": set(),
    "tools": {"flows", "models", "deployments", "collectors", "serveflow_app"},
}
# The command line names the benches, which stand above all that they measure.
EXCEPTIONS = {("serveflow_app/cli.py", "benchmarks")}
HEAVY = {
    "flows": {"ray", "torch", "sklearn", "onnxruntime", "fastapi"},
    "collectors": {"ray", "torch", "sklearn", "onnxruntime", "fastapi"},
    "models": {"ray", "fastapi"},
    "deployments": {"torch", "sklearn"},
}
MOST_LINES = 400


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_downwards_only(package: str) -> None:
    assert sources(package)
    allowed = ARROWS[package] | {package}
    for path in sources(package):
        name = path.relative_to(ROOT).as_posix()
        upwards = imported(path) & set(PACKAGES) - allowed
        upwards -= {package for module, package in EXCEPTIONS if module == name}
        assert not upwards, f"{path.relative_to(ROOT)} imports {upwards}"
        heavy = imported(path) & HEAVY.get(package, set())
        assert not heavy, f"{path.relative_to(ROOT)} imports {heavy}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_too_long(package: str) -> None:
    for path in sources(package):
        lines = len(path.read_text().splitlines())
        assert lines <= MOST_LINES, f"{path.relative_to(ROOT)} has {lines} lines"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_that_a_module_exports_exists(package: str) -> None:
    for path in sources(package):
        tree = ast.parse(path.read_text())
        exported: list[str] = []
        defined: set[str] = set()
        for node in tree.body:
            if isinstance(node, ast.Assign):
                names = {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
                defined |= names
                if "__all__" in names:
                    exported = ast.literal_eval(node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                defined.add(node.target.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                defined.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                defined |= {alias.asname or alias.name for alias in node.names}
        missing = set(exported) - defined
        assert not missing, f"{path.relative_to(ROOT)} exports {missing}"


def test_nothing_loads_what_can_run_code() -> None:
    for package in PACKAGES:
        for path in sources(package):
            banned = imported(path) & {"pickle", "joblib", "cloudpickle", "dill", "shelve"}
            assert not banned, f"{path.relative_to(ROOT)} imports {banned}"
            assert "torch.load(" not in path.read_text(), path
            assert "allow_pickle=True" not in path.read_text(), path


def test_an_edge_box_needs_neither_ray_nor_torch() -> None:
    """The collector's modules import with the base dependencies alone."""
    code = (
        "import sys, collectors.replay, collectors.sink_specs, collectors.sender\n"
        "import serveflow_app.cli\n"
        "heavy = {'ray', 'torch', 'sklearn', 'onnxruntime', 'fastapi'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_repository_names_no_path_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.split()
    here = "/" + "work/"
    for name in listed:
        path = ROOT / name
        text = path.suffix in {".py", ".md", ".toml", ".yaml", ".json", ".txt", ".sh", ".csv"}
        if text and path.is_file():  # git lists what was deleted until that is committed
            assert here not in path.read_text(), name
