"""The paper's claims on synthetic data, measured with the shipped configs (half an hour in all).

    pytest -m slow -s tests/experiments

prints what was found. NTDH_SEEDS sets the number of seeds (default 20 and 10).
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ntdh_bench.cli import main
from tests.helpers import flags

pytestmark = pytest.mark.slow

Run = Callable[..., dict[str, Any]]
WITHOUT = ["--model.distiller", "null", "--model.task_weight", "1"]
MATCHED = ["--model.distiller", "null", "--model.task_weight", "2"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a config; returns the test metrics of the last epoch."""
    numbers = itertools.count()

    def measure(config: str, seed: int, *more: str) -> dict[str, Any]:
        folder = tmp_path / str(next(numbers))
        words = flags(Path(f"configs/{config}.yaml"), folder, "--seed_everything", str(seed), *more)
        assert main(["fit", *words]) == 0
        (path,) = folder.glob("*/record.json")
        found: dict[str, Any] = json.loads(path.read_text())["metrics"]["last"]["test"]
        return found

    return measure


def seeds(default: int) -> range:
    return range(int(os.environ.get("NTDH_SEEDS", default)))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % confidence interval (Student's t)."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(np.mean(values)), float(half)


def show(what: str, values: Sequence[float], unit: str = "%") -> tuple[float, float]:
    scale = 100 if unit == "%" else 1
    mean, half = interval([scale * value for value in values])
    digits = 2 if unit == "%" else 4
    print(f"  {what:<44} {mean:8.{digits}f} ± {half:.{digits}f} {unit}  (n = {len(values)})")
    return mean, half


def differences(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> list[float]:
    """Accuracy gained, paired by seed."""
    return [a["accuracy"] - b["accuracy"] for a, b in zip(left, right, strict=True)]


def test_paper_protocol(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    config, each = "synthetic_paper", seeds(20)
    without = [run(config, seed, *WITHOUT) for seed in each]
    matched = [run(config, seed, *MATCHED) for seed in each]
    distilled = {gap: [run(config, seed, "--data.gap", gap) for seed in each] for gap in ("0", "1")}
    with capsys.disabled():
        print("\npaper protocol, simulated data, test accuracy of the last epoch")
        accuracies = [100 * x["accuracy"] for x in without]
        mean, _ = show("student without KD", [x["accuracy"] for x in without])
        show("student without KD, task weight 2 (matched)", [x["accuracy"] for x in matched])
        for gap, found in distilled.items():
            show(f"gain of KD, gap {gap}", differences(found, without))
            show(f"gain of KD against matched, gap {gap}", differences(found, matched))
    # Table I says 39.6 for one run: it should lie where one more run would.
    spread = stats.t.ppf(0.975, len(each) - 1) * np.std(accuracies, ddof=1)
    assert abs(mean - 39.6) <= spread * np.sqrt(1 + 1 / len(each))


def test_converged_protocol(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    config, each = "synthetic_converged", seeds(10)
    gaps = ("0", "0.4", "1")
    growth: dict[str, dict[str, float]] = {}
    with capsys.disabled():
        print("\nconverged protocol, simulated data, independent teacher")
    for gap in gaps:
        more = ("--data.gap", gap, "--model.teacher", "independent")
        without = [run(config, seed, *more, *WITHOUT) for seed in each]
        found = [run(config, seed, *more) for seed in each]
        with capsys.disabled():
            show(f"student without KD, gap {gap}", [x["accuracy"] for x in without])
            show(f"gain of KD, gap {gap}", differences(found, without))
            growth[gap] = {
                name: show(f"{name} without KD, gap {gap}", [x[name] for x in without], "nats")[0]
                for name in ("tcjsd", "ncjsd")
            }
            for name in ("tcjsd", "ncjsd"):
                show(f"{name} with KD, gap {gap}", [x[name] for x in found], "nats")
    rise = {name: growth["1"][name] - growth["0"][name] for name in ("tcjsd", "ncjsd")}
    assert rise["ncjsd"] > rise["tcjsd"]


def test_masks_at_gap_one_half(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    config, each = "synthetic_converged", seeds(10)
    mask = ("--mask", "FeatureMask", "--mask.layer", "input")
    without = [run(config, seed, *WITHOUT) for seed in each]
    unmasked = [run(config, seed) for seed in each]
    with capsys.disabled():
        print("\nconverged protocol, gap 0.5, joint teacher, masks at its input, simulated data")
        show("student without KD", [x["accuracy"] for x in without])
        show("KD without a mask", [x["accuracy"] for x in unmasked])
    for ratio in ("0.25", "0.5"):
        for removes in ("most_divergent", "random", "least_divergent"):
            more = (*mask, "--mask.ratio", ratio, "--mask.removes", removes)
            found = [run(config, seed, *more) for seed in each]
            with capsys.disabled():
                show(f"KD, {removes} {ratio}", [x["accuracy"] for x in found])
                show("  gain against KD without a mask", differences(found, unmasked))
                show("  ncjsd", [x["ncjsd"] for x in found], "nats")
    assert len(unmasked) == len(each)
