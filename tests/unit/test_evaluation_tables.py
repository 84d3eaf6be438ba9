"""What ``serveflow evaluate`` shows people of flows without histories and of unknown ones."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from models.cascade import load_cascade
from models.evaluation import assess
from models.evaluation_answers import study
from models.evaluation_without import ports, without_host
from models.synthetic import synthetic_bundle, synthetic_dataset
from serveflow_app.evaluation_tables import evaluation_tables


def shown(result: dict[str, Any]) -> str:
    written = io.StringIO()
    console = Console(file=written, width=200)
    for table in evaluation_tables(result):
        console.print(table)
    return " ".join(written.getvalue().split())  # titles are wrapped to the table


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    bundle = synthetic_bundle(tmp_path_factory.mktemp("tables") / "bundle")
    cascade, data = load_cascade(bundle), synthetic_dataset(80)
    return assess(study(cascade, data), data, None, without_host(cascade, data)).to_dict()


def test_tables_for_which_there_is_nothing_to_say_are_left_out(result: dict[str, Any]) -> None:
    text = shown({**result, "without_host": None, "unknown": None})
    assert "weighted F1" in text
    assert "AUROC" not in text
    assert "histories" not in text


def test_figures_with_the_port_and_without_are_shown(result: dict[str, Any]) -> None:
    own = {"weighted_f1": 0.7123, "macro_f1": 0.6, "waited_at_most_16ms": 0.5}
    other = {**own, "weighted_f1": 0.3456}
    both = ports(1.0, {"cascade": own, "slow_only": own}, {"cascade": other, "slow_only": other})
    text = shown({**result, "ports": both})
    assert "cascade, with the responder's port 0.712" in text
    assert "cascade, without the responder's port 0.346" in text
    assert "hidden from them" in text
    alone = shown({**result, "ports": ports(0.0, {"cascade": own, "slow_only": own})})
    assert "cascade, without the responder's port 0.712" in alone
    assert "trained without" in alone
    mixed = ports(0.6, {"cascade": own, "slow_only": own})
    assert (mixed["with"], mixed["without"]) == (None, None)
    assert "60% of the cascades see" in shown({**result, "ports": mixed})


def test_unknown_flows_and_flows_without_histories_are_shown(result: dict[str, Any]) -> None:
    own = {"weighted_f1": 0.7123, "macro_f1": 0.6, "waited_at_most_16ms": 0.5}
    told = {
        "auroc_by_flow": 0.804,
        "auroc_by_capture": 0.835,
        "flagged": {"0.01": 0.12, "0.05": 0.34},
    }
    slow = {"auroc_by_flow": 0.9, "auroc_by_capture": 0.95, "flagged": {"0.01": 0.5, "0.05": 0.6}}
    which = {"classes": ["lamp", "lock"], "flows": 1_234, "captures": 7}
    new = {**which, **told, "slow_only": slow}
    text = shown({**result, "without_host": {"cascade": own, "slow_only": own}, "unknown": new})
    for part in ("0.712", "1,234 flows of 2 classes", "7 captures", "0.804", "0.835",
                 "all but 1%", "12.0%", "34.0%", "0.950", "60.0%"):  # fmt: skip
        assert part in text
    nothing = dict.fromkeys(told)
    nobody_known = {**which, **nothing, "slow_only": nothing}
    assert "AUROC by flow" in shown({**result, "unknown": nobody_known})
