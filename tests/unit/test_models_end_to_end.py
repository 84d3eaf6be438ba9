"""From captures and labels to a bundle, and from the bundle to figures."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.errors import BundleError, LabelsError
from flows.verdict import Reason
from models.assignment import assign
from models.bundle import read_bundle, read_validation
from models.cascade import load_cascade
from models.costs import BATCHES
from models.dataset import Dataset, load_dataset
from models.evaluation import evaluate
from models.gates import GATES
from models.synthetic import synthetic_dataset
from models.training import TrainSettings, train, train_on
from models.tuning import goal_of, tune
from models.yardstick import Yardstick

START_S = 1_700_000_000
SYN, ACK, FIN, RST = 0x02, 0x10, 0x01, 0x04


def frame(
    src: int, dst: int, *, udp: bool = False, flags: int = ACK, ttl: int = 64, payload: int = 0
) -> bytes:
    """An Ethernet frame of 10.0.0.1 port ``src`` to 10.0.0.2 port ``dst``, or back if src < dst."""
    there = src > dst
    ends = bytes([10, 0, 0, 1, 10, 0, 0, 2] if there else [10, 0, 0, 2, 10, 0, 0, 1])
    if udp:
        transport = struct.pack(">HHHH", src, dst, 8 + payload, 0)
    else:
        transport = struct.pack(">HHIIBBHHH", src, dst, 1, 0, 0x50, flags, 64_000, 0, 0)
    body = transport + bytes(payload)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, ttl, 17 if udp else 6, 0)
    return bytes(12) + b"\x08\x00" + head + ends + body


def write_pcap(path: Path, frames: list[tuple[float, bytes]]) -> None:
    """Write frames, each with its time in seconds after ``START_S``, in the order of time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1))
        for at_s, data in sorted(frames, key=lambda item: item[0]):
            us = round(at_s * 1e6)
            file.write(
                struct.pack("<IIII", START_S + us // 10**6, us % 10**6, len(data), len(data))
            )
            file.write(data)


def write_labels(path: Path, rows: list[tuple[str, int, int, str, str]], extra: str = "") -> None:
    lines = ["pcap,src_ip,src_port,dst_ip,dst_port,proto,label,site"]
    lines += [
        f"{pcap},10.0.0.1,{src},10.0.0.2,{dst},{proto},{label},{extra or pcap}"
        for pcap, src, dst, proto, label in rows
    ]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def one_capture(tmp_path: Path) -> Dataset:
    """Flows that show every way of waiting, one label each; 4 packets and 10 s at most."""
    frames: list[tuple[float, bytes]] = []

    def add(port: int, times_s: list[float], last: bytes | None = None) -> None:
        for i, at_s in enumerate(times_s):
            data = frame(port, 443, flags=SYN if i == 0 else ACK)
            frames.append((at_s, last if last is not None and i == len(times_s) - 1 else data))

    add(50_000, [0.0, 0.1, 0.2, 0.5, 0.6])  # reaches the depth
    add(50_001, [0.0, 0.1, 0.3], frame(443, 50_001, flags=RST))  # ends
    add(50_002, [0.0, 1.0, 11.0])  # its third packet comes too late
    add(50_003, [0.0, 2.0])  # goes silent; the capture goes on
    add(50_004, [5.0, 12.0])  # the capture ends before its deadline
    add(50_005, [0.0, 10.0])  # at the deadline is in time
    add(50_006, [0.0, 1.0, 14.0], frame(443, 50_006, flags=RST))  # ends too late
    write_pcap(tmp_path / "captures" / "sub" / "a.pcap", frames)
    rows = [("a.pcap", 50_000 + i, 443, "tcp", f"flow-{i}") for i in range(7)]
    write_labels(tmp_path / "labels.csv", rows)
    return load_dataset(tmp_path / "captures", tmp_path / "labels.csv", depth=4)


def test_packets_count_up_to_the_depth_and_the_deadline(one_capture: Dataset) -> None:
    order = np.argsort(one_capture.labels)
    assert one_capture.sizes[order].tolist() == [4, 3, 2, 2, 2, 2, 2]
    assert one_capture.packets["packet_index"].tolist()[:4] == [0, 1, 2, 3]


def test_waiting_ends_with_the_packet_the_flow_or_the_longest_wait(one_capture: Dataset) -> None:
    order = np.argsort(one_capture.labels)
    ms = (one_capture.wait_ns(4)[order] / 1e6).round().tolist()
    assert ms == [500, 300, 10_000, 10_000, 9_000, 10_000, 10_000]
    ms = (one_capture.wait_ns(2)[order] / 1e6).round().tolist()
    assert ms == [100, 100, 1_000, 2_000, 7_000, 10_000, 1_000]
    assert (one_capture.wait_ns(1) == 0).all()
    reasons = one_capture.reasons[order][1:].tolist()
    assert reasons == [
        Reason.ENDED, Reason.TIMEOUT, Reason.TIMEOUT, Reason.ENDED, Reason.TIMEOUT, Reason.TIMEOUT
    ]  # fmt: skip


def test_selecting_flows_keeps_their_packets(one_capture: Dataset) -> None:
    chosen = one_capture.select(one_capture.labels == "flow-1")
    assert chosen.labels.tolist() == ["flow-1"]
    assert chosen.sizes.tolist() == [3]
    assert chosen.packets["originator_port"].tolist() == [50_001] * 3
    assert one_capture.select(np.zeros(7, bool)).sizes.tolist() == []


def test_the_digest_rests_on_what_is_learned_from(one_capture: Dataset) -> None:
    assert one_capture.digest == one_capture.select(np.ones(7, bool)).digest
    assert one_capture.digest != one_capture.select(np.arange(6)).digest


def test_a_damaged_capture_is_told_and_read_up_to_the_damage(tmp_path: Path) -> None:
    frames = [(0.1 * i, frame(50_000 + i, 443)) for i in range(3)]
    write_pcap(tmp_path / "captures" / "a.pcap", frames)
    path = tmp_path / "captures" / "a.pcap"
    path.write_bytes(path.read_bytes()[:-5])
    (tmp_path / "captures" / "b.pcap").write_bytes(b"this is no capture file at all")
    rows = [("a.pcap", 50_000 + i, 443, "tcp", "x") for i in range(2)]
    write_labels(tmp_path / "labels.csv", rows)
    told: list[tuple[str, int, int]] = []
    found = load_dataset(
        tmp_path / "captures", tmp_path / "labels.csv", progress=lambda *step: told.append(step)
    )
    assert len(found) == 2
    assert found.captures == 2
    assert [name for name, _ in found.damaged] == ["a.pcap", "b.pcap"]
    assert all(reason for _, reason in found.damaged)
    assert told == [("reading captures", i, 2) for i in range(3)]


def test_captures_without_a_labelled_flow_are_refused(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.csv", [("other.pcap", 50_000, 443, "tcp", "x")])
    (tmp_path / "captures").mkdir()
    with pytest.raises(LabelsError, match="no captures"):
        load_dataset(tmp_path / "captures", tmp_path / "labels.csv")
    write_pcap(tmp_path / "captures" / "a.pcap", [(0.0, frame(50_000, 443))])
    with pytest.raises(LabelsError, match=r"none of the 1 flows.*a\.pcap"):
        load_dataset(tmp_path / "captures", tmp_path / "labels.csv")
    with pytest.raises(LabelsError, match="nowhere"):
        load_dataset(tmp_path / "nowhere", tmp_path / "labels.csv")


KINDS = {"web": (443, False), "name": (53, True), "chat": (443, False)}
FAST = TrainSettings(effort="quick", operating_point="accurate")


def traffic(folder: Path, captures: int, seed: int) -> tuple[Path, Path]:
    """Three kinds of traffic; ``chat`` and ``web`` look alike in packet 1."""
    rng = np.random.default_rng(seed)
    rows = []
    for c in range(captures):
        name = f"run-{c}.pcap"
        frames = []
        for i in range(30):
            label = list(KINDS)[i % 3]
            port, udp = KINDS[label]
            src = 40_000 + i
            at_s = float(rng.uniform(0, 60))
            frames.append((at_s, frame(src, port, udp=udp, flags=SYN, payload=40 if udp else 0)))
            for j in range(3 if udp else 11):
                at_s += float(rng.exponential(0.02))
                size = int(rng.integers(300, 900) if label == "web" else rng.integers(10, 80))
                ends = (port, src) if j % 2 == 0 else (src, port)
                frames.append((at_s, frame(*ends, udp=udp, payload=size)))
            rows.append((name, src, port, "udp" if udp else "tcp", label))
        rows.append((name, 1_000 + c, 80, "tcp", f"only-in-{c}"))
        frames.append((1.0, frame(1_000 + c, 80, flags=SYN)))
        write_pcap(folder / "captures" / name, frames)
    write_labels(folder / "labels.csv", rows)
    return folder / "captures", folder / "labels.csv"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("trained")
    captures, labels = traffic(folder / "train", 8, seed=0)
    steps: list[tuple[str, int, int]] = []
    report = train(
        captures, labels, folder / "bundle", FAST, progress=lambda *step: steps.append(step)
    )
    told = {step for step, _, _ in steps}
    assert {"reading captures", "validating tree@1", "composing the cascade"} <= told
    assert {f"training {tier.name}" for tier in report.tiers} <= told
    assert all(0 <= done <= total for _, done, total in steps)
    return folder / "bundle", report.to_dict()


def test_training_reports_what_it_did(trained: tuple[Path, dict[str, object]]) -> None:
    _, report = trained
    json.dumps(report)
    assert report["flows"] == 240
    assert report["groups"] == 8
    assert report["classes"] == ("chat", "name", "web")
    assert report["dropped_classes"] == {f"only-in-{c}": 1 for c in range(8)}
    tried = {one["name"] for one in report["candidates"]}  # type: ignore[attr-defined]
    recipes = {name.partition("+")[0] for name in tried}
    assert {"tree@1", "extra-trees-20@1", "extra-trees-60@10"} <= recipes
    assert {"extra-trees-20@10", "extra-trees-20@10+host"} <= tried
    assert any("+port" in name for name in tried), "that it helps is tried"
    for one in report["candidates"]:  # type: ignore[attr-defined]
        assert 0.0 <= one["macro_f1"] <= 1.0
        assert list(one["cost_us"]) == list(BATCHES)
    assert report["skipped"] == ()
    assert set(report["by_gate"]) == set(GATES)  # type: ignore[call-overload]
    assert report["operating_point"] == "accurate"
    assert report["met"]
    assert not report["with_port"], "the port tells nothing here"
    assert report["loss_bound"] <= 0.005  # type: ignore[operator]
    assert report["tiers"][-1]["weighted_f1"] > 0.95  # type: ignore[index]
    for tier in report["tiers"]:  # type: ignore[attr-defined]
        assert list(tier["risk_coverage"]) == ["least_confidence", "margin", "entropy"]
        assert all(0.0 <= area < 0.5 for area in tier["risk_coverage"].values())


def test_a_trained_bundle_loads_and_explains_itself(
    trained: tuple[Path, dict[str, object]],
) -> None:
    bundle, report = trained
    contents = read_bundle(bundle)
    assert contents.model_version == report["model_version"]
    assert contents.classes == report["classes"]
    for word in (
        "240 flows", "chat", "only-in-3 (1)", "extra-trees-20@1", "weighted F1",
        "margin | entropy", "chosen by training", "## Operating point", "### Guaranteed",
        "### Not guaranteed",
    ):  # fmt: skip
        assert word in contents.card
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    assert size < 10_000_000


def test_a_trained_bundle_keeps_what_its_thresholds_were_found_on(
    trained: tuple[Path, dict[str, object]],
) -> None:
    bundle, report = trained
    contents, kept = read_bundle(bundle), read_validation(bundle)
    assert len(kept.true) == report["flows"]
    assert len(np.unique(kept.groups)) == report["groups"]
    assert [tier.depth for tier in kept.tiers] == [tier.depth for tier in contents.tiers]
    thresholds = tuple(tier.threshold for tier in contents.tiers[:-1])
    found = assign(kept.true, kept.groups, kept.tiers, kept.sizes)
    assert found.thresholds == thresholds
    assert round(found.loss_bound, 4) == report["loss_bound"]
    right = float((kept.tiers[-1].labels == kept.true).mean())
    assert round(right, 4) == report["tiers"][-1]["accuracy"]  # type: ignore[index]


def test_a_trained_bundle_is_tuned_without_its_captures(
    trained: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    bundle, report = trained
    same = tune(bundle, tmp_path / "same", goal_of(max_f1_loss=0.5))
    assert same.chosen.current
    assert same.chosen.early == report["early"]
    fast = tune(bundle, tmp_path / "fast", goal_of(max_escalation=0.0))
    assert fast.chosen.escalated == 0.0
    load_cascade(tmp_path / "fast")


def test_a_trained_cascade_answers_traffic_that_it_never_saw(
    trained: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    bundle, _ = trained
    captures, labels = traffic(tmp_path, 3, seed=9)
    found = evaluate(bundle, captures, labels).to_dict()
    json.dumps(found)
    assert found["flows"] == 93
    assert found["classes"] == 6
    cascade, fast, slow = found["cascade"], found["fast_only"], found["slow_only"]
    # The 3 flows of classes that nobody knows are missed, and are counted as such.
    assert 0.9 < slow["weighted_f1"] < 1.0
    assert cascade["weighted_f1"] >= slow["weighted_f1"] - 0.03
    assert cascade["median_latency_ms"] <= slow["median_latency_ms"] + 1.0
    assert fast["escalated"] == 0.0
    assert slow["escalated"] == 1.0
    assert 0.0 <= cascade["escalated"] <= 1.0
    assert fast["answered_within_16ms"] >= cascade["answered_within_16ms"]
    assert cascade["p90_latency_ms"] >= cascade["median_latency_ms"]
    by_port = found["ports"]
    own = {key: cascade[key] for key in ("weighted_f1", "macro_f1")}
    assert own.items() <= by_port["with" if by_port["seen"] else "without"]["cascade"].items()
    assert (by_port["with"] is None) == (not by_port["seen"])


def test_a_cascade_that_goes_by_ports_is_judged_without_them_too(tmp_path: Path) -> None:
    captures, labels = traffic(tmp_path / "train", 6, seed=1)
    train(captures, labels, tmp_path / "bundle", replace(FAST, port=True, host=False))
    captures, labels = traffic(tmp_path, 3, seed=9)
    by_port = evaluate(tmp_path / "bundle", captures, labels).ports
    assert by_port is not None
    assert by_port["seen"] == 1.0
    assert "hidden" in by_port["how"]
    for way in ("cascade", "slow_only"):
        assert set(by_port["with"][way]) == set(by_port["without"][way])
    data = load_dataset(captures, labels)
    assert (data.without_port().packets["responder_port"] == 0).all()
    assert (data.packets["responder_port"] > 0).all()


def without_costs(bundle: Path) -> tuple[dict[str, bytes], list[dict[str, object]]]:
    """What a bundle holds but for what was measured: its files and its tiers."""
    files = {
        path.relative_to(bundle).as_posix(): path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", "card.md")
    }
    tiers = json.loads((bundle / "manifest.json").read_text())["tiers"]
    return files, [{key: tier[key] for key in tier if key != "cost_us"} for tier in tiers]


def test_training_again_gives_the_same_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Costs are measured anew; where they are the same, so is all the rest."""
    monkeypatch.setattr(
        "models.candidates.measured",
        lambda task, recipe, sight, engine: dict.fromkeys(BATCHES, float(recipe.depth)),
    )
    for module, cost in (("composition_book", 0.5), ("tier_training", 0.7)):
        monkeypatch.setattr(
            f"models.{module}.cost_us", lambda ask, flows, own=cost: dict.fromkeys(BATCHES, own)
        )
    data = synthetic_dataset(400, classes=3, seed=4)
    settings = replace(FAST, port=False, host=False, gate="benefit")
    reports = [train_on(data, tmp_path / name, settings) for name in ("one", "two")]
    assert without_costs(tmp_path / "one") == without_costs(tmp_path / "two")
    assert reports[0].loss_bound == reports[1].loss_bound
    cards = [
        [
            line
            for line in (tmp_path / name / "card.md").read_text().splitlines()
            if "µs" not in line
        ]
        for name in ("one", "two")
    ]
    assert cards[0] == cards[1]
    kept = read_validation(tmp_path / "one")
    assert {tier.cost_us for tier in kept.tiers} == {0.7}
    thresholds = [tier.threshold for tier in read_bundle(tmp_path / "one", tiers=()).tiers[:-1]]
    found = Yardstick(kept.true, kept.groups, kept.tiers, kept.sizes).measure(tuple(thresholds))
    assert found.cost_us == pytest.approx(reports[0].mean_cost_us, abs=0.01), "by final costs"
    cascade = load_cascade(tmp_path / "one")
    assert cascade.fast_tiers >= 1
    assert cascade.tiers[-1].depth == 10


def test_limits_that_no_cascade_keeps_to_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "models.candidates.measured",
        lambda task, recipe, sight, engine: dict.fromkeys(BATCHES, 50.0 * recipe.depth),
    )
    for module in ("composition_book", "tier_training"):
        monkeypatch.setattr(
            f"models.{module}.cost_us", lambda ask, flows: dict.fromkeys(BATCHES, 50.0)
        )
    data = synthetic_dataset(200, classes=3, seed=4)
    settings = TrainSettings(effort="quick", port=False, host=False, gate="margin")
    report = train_on(data, tmp_path / "bundle", settings)
    assert not report.met
    card = " ".join((tmp_path / "bundle" / "card.md").read_text().split())
    assert f"does both: this one takes {report.mean_cost_us:.1f} µs" in card


def test_what_may_be_seen_can_be_told(tmp_path: Path) -> None:
    """What is said need not be tried; but trees without the port are, to tell what it brings."""
    data = synthetic_dataset(200, classes=3, seed=4)
    settings = replace(FAST, port=True, host=False, gate="margin")
    report = train_on(data, tmp_path / "bundle", settings)
    assert (report.with_port, report.with_host) == (True, False)
    bare = {one.name: one.weighted_f1 for one in report.candidates if "+port" not in one.name}
    assert bare == report.by_port["without"]
    assert set(bare) == set(report.by_port["with"]) == {"extra-trees-20@1", "extra-trees-20@10"}
    card = (tmp_path / "bundle" / "card.md").read_text()
    for own in report.by_port.values():
        assert all(f"{name} {f1:.4f}" in card for name, f1 in own.items())
    assert not any("+host" in one.name for one in report.candidates)
    assert list(report.by_gate) == ["margin"]
    kinds = {tier.gate.kind for tier in read_bundle(tmp_path / "bundle").tiers[:-1]}
    assert kinds <= {"margin"}


def test_when_time_runs_out_the_rest_is_left_out_and_told(tmp_path: Path) -> None:
    data = synthetic_dataset(200, classes=3, seed=4)
    report = train_on(data, tmp_path / "bundle", replace(FAST, time_limit_s=0.0))
    assert "tree@1" in report.skipped
    assert {one.name.partition("+")[0] for one in report.candidates} == {
        "extra-trees-20@1", "extra-trees-20@10"
    }  # fmt: skip
    load_cascade(tmp_path / "bundle")


def test_too_little_to_learn_from_is_refused(tmp_path: Path) -> None:
    write_pcap(tmp_path / "captures" / "a.pcap", [(0.0, frame(50_000, 443, flags=SYN))])
    write_labels(tmp_path / "labels.csv", [("a.pcap", 50_000, 443, "tcp", "x")])
    with pytest.raises(LabelsError, match="0 of the 1 classes"):
        train(tmp_path / "captures", tmp_path / "labels.csv", tmp_path / "bundle", FAST)


def test_captures_of_one_group_cannot_be_checked(tmp_path: Path) -> None:
    captures, labels = traffic(tmp_path, 2, seed=1)
    lines = labels.read_text().splitlines()
    labels.write_text(
        "\n".join([lines[0], *(f"{line.rsplit(',', 1)[0]},here" for line in lines[1:])])
    )
    with pytest.raises(LabelsError, match="2 captures"):
        train(captures, labels, tmp_path / "bundle", group_by="site")


def test_training_does_not_overwrite_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="another folder"):
        train(tmp_path, tmp_path / "labels.csv", tmp_path)
