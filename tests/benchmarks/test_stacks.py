"""What a stack saves: Table III on features as stacks and run by run, and where it saves nothing.

The features are those of ``$NTDH_DATA``, else simulated. What Table II would take as one stack on
a GPU is a model: operations and bytes of its steps at the rates of the device's data sheet.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD

from ntdh_bench.distillers.functional import kd
from ntdh_bench.experiments import Run, find_experiment, load_experiment
from ntdh_bench.layers import LOGITS
from ntdh_bench.models import MLPClassifier
from ntdh_bench.stacks.networks import NetworkStack
from ntdh_bench.stacks.requirements import stack_key
from ntdh_bench.sweep.worker import run_configs

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

EVERY, TARGET = 16, 8


def configs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    data = os.environ.get("NTDH_DATA")
    change = {"root": data} if data else {"source": "simulated"}
    made = []
    for run in runs:
        given = run.config["data"]
        settings = {**given["init_args"], **change}
        made.append({**run.config, "data": {**given, "init_args": settings}})
    return made


def seconds(jobs: Sequence[list[dict[str, Any]]], folder: Path) -> float:
    """CPU seconds of the jobs, one after the other; they share a cache."""
    start = time.process_time()
    for number, job in enumerate(jobs):
        (folder / str(number)).mkdir(parents=True)
        failed = [r for r in run_configs(job, folder / str(number)) if not isinstance(r, dict)]
        assert not failed, failed
    return time.process_time() - start


def test_table3_on_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment(find_experiment("table3_features"))
    runs = [run for run in experiment.runs if run.protocol == "ravdess_features_actor"]
    runs.sort(key=lambda run: run.seed)
    half = configs(runs[: len(runs) // 2])  # what one of two jobs gets
    alone = [[config] for config in half[::EVERY]]
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "warm"))
    seconds(alone[:1], tmp_path / "first")  # imports, and simulated data
    times = {}
    for name, jobs in (("stack", [half]), ("alone", alone)):
        monkeypatch.setenv("NTDH_CACHE", str(tmp_path / name))
        times[name] = seconds(jobs, tmp_path / f"runs of {name}") / sum(map(len, jobs))
    print(
        f"\nTable III, features, one core: {times['alone']:.2f} s a run alone ({len(alone)} runs), "
        f"{times['stack']:.2f} s in a stack of {len(half)}: "
        f"{times['alone'] / times['stack']:.1f} times (target >= {TARGET})"
    )


@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [
        ("fig8", {}, 40),
        ("smoke", {"data.init_args.simulated_train": 6000, "trainer.max_epochs": 6}, 12),
    ],
)
def test_where_a_step_is_mostly_arithmetic(
    name: str, settings: dict[str, Any], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synthetic data and simulated MNIST: members share batches and a Trainer's own work.

    The stack trains the teachers, which those alone find in the cache.
    """
    every = load_experiment(find_experiment(name), settings).runs
    runs = [run for run in every if run.labels["method"] == "KD"]
    together = [run for run in runs if stack_key(run.config) == stack_key(runs[0].config)]
    chosen = [run.config for run in sorted(together, key=lambda run: run.seed)[:count]]
    alone = [[config] for config in chosen[::4]]
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "warm"))
    seconds(alone[:1], tmp_path / "first")
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    times = {}
    for way, jobs in (("stack", [chosen]), ("alone", alone)):
        times[way] = seconds(jobs, tmp_path / f"runs of {way}") / sum(map(len, jobs))
    print(
        f"\n{name}, one core: {times['alone']:.2f} s a run alone ({len(alone)} runs), "
        f"{times['stack']:.2f} s in a stack of {len(chosen)}: at least "
        f"{times['alone'] / times['stack']:.1f} times"
    )


SIZES = {
    "35-64-64-8, batch 64": ([35, 64, 64, 8], 64, 200),
    "35-303-128-8, batch 64 (RAVDESS features)": ([35, 303, 128, 8], 64, 200),
    "50-16-16-4, batch 6000 (synthetic)": ([50, 16, 16, 4], 6000, 20),
    "784-512-256-10, batch 128 (MNIST)": ([784, 512, 256, 10], 128, 20),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_step_with_kd(name: str) -> None:
    widths, batch, members = SIZES[name]
    network = partial(MLPClassifier, widths[0], widths[1:-1], widths[-1])
    networks = [network() for _ in range(members)]
    stack = NetworkStack(networks)
    inputs = torch.randn(members, batch, widths[0])
    teacher = torch.randn(members, batch, widths[-1])
    target = torch.randint(widths[-1], (members, batch))
    optimiser = SGD(stack.parameters(), lr=1e-3, momentum=0.9)

    def stacked() -> None:
        optimiser.zero_grad()
        logits = stack(inputs)[LOGITS]
        entropy = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), target.flatten(), reduction="none"
        )
        (entropy.view_as(target).mean(1) + kd(logits, teacher, 1.0)).sum().backward()
        optimiser.step()

    optimisers = [SGD(one.parameters(), lr=1e-3, momentum=0.9) for one in networks]

    def alone() -> None:
        for number, one in enumerate(networks):
            optimisers[number].zero_grad()
            logits = one(inputs[number])
            entropy = torch.nn.functional.cross_entropy(logits, target[number])
            (entropy + kd(logits, teacher[number], 1.0)).backward()
            optimisers[number].step()

    took = {step.__name__: best_of(step) / members * 1e3 for step in (alone, stacked)}
    print(
        f"\n{name}: {took['alone']:.2f} ms alone, {took['stacked']:.2f} ms a member in a stack of "
        f"{members}: {took['alone'] / took['stacked']:.1f} times"
    )


def best_of(step: Any, rounds: int = 5) -> float:
    step()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return min(times)


# Table II: 50 epochs of MNIST's 54,000 training samples at batch 128; 5 seeds; 10 masked teachers.
STEPS, BATCH, SEEDS, MASKS = 50 * 422, 128, 5, 10
PARAMETERS, SAMPLES, NEGATIVES, WIDTH = 535_818, 54_000, 16_384, 128
# float32 without tensor cores, and memory, of one H100 SXM (NVIDIA's data sheet); a share of both
# is reached, as in the batched products of a prototype on an H200 (300 students: 5.5 ms a step).
FLOPS, BYTES, REACHED = 67e12, 3.35e12, 0.6


def test_model_of_table2_on_a_gpu() -> None:
    students, crd = 6 * SEEDS * MASKS + SEEDS, SEEDS * MASKS  # the control is one a seed

    def step(members: int) -> float:
        operations = 6 * BATCH * PARAMETERS * members
        moved = 4 * 8 * PARAMETERS * members  # weights twice, gradients, momentum, update
        return operations / FLOPS / REACHED + moved / BYTES / REACHED

    teachers = 2 * BATCH * PARAMETERS * SEEDS * MASKS / FLOPS / REACHED
    scores = 8 * BATCH * SAMPLES * WIDTH  # two directions, forth and back
    passes = 4 * BATCH * 2 * (4 * SAMPLES + 8 * NEGATIVES)
    contrast = crd * (scores / FLOPS + passes / BYTES) / REACHED
    joint = STEPS * step(2 * SEEDS)
    without = STEPS * (step(students) + teachers) + joint
    whole = STEPS * (step(students + crd) + teachers + contrast) + joint
    print(
        f"\nTable II on one H100, a model and not a measurement: {without / 60:.1f} min without "
        f"CRD ({step(students) * 1e3:.1f} ms a step of {students} students), {whole / 60:.1f} min "
        f"with it ({contrast * 1e3:.1f} ms more a step)"
    )
