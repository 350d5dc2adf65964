"""How long processes take to start, as ratios.

Commands that run no model: to their lightest imports. A worker: to one that imports what whole
packages import, as Python does without help.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ["-c", "import jsonargparse, rich"]
COMMANDS = {
    "--help": ["-m", "ntdh_bench", "--help"],
    "data list": ["-m", "ntdh_bench", "data", "list"],
}
WORKER = """
from ntdh_bench.sweep.execution import load_function
load_function("ntdh_bench.sweep.worker:run_config")
"""
WHOLE = """
import torchmetrics, sklearn.datasets, scipy.sparse.csgraph, h5py
import ntdh_bench.sweep.worker
"""
PARSE = """
from ntdh_bench.composition import find_config, read_config
from ntdh_bench.runs import Run
Run.parse("fit", config=read_config(find_config("mnist_kd")))
"""
REPEATS = 9
TARGET = 1.5


def seconds(arguments: list[str]) -> tuple[float, str]:
    """Wall time of one Python process in seconds, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - start, done.stdout


@pytest.mark.benchmark
@pytest.mark.parametrize("name", COMMANDS)
def test_answers_about_as_fast_as_its_imports(name: str) -> None:
    ours, reference = [], []
    seconds(COMMANDS[name])  # both once unmeasured: disk cache and .pyc files
    seconds(REFERENCE)
    for _ in range(REPEATS):  # alternating, so that a busy machine slows both
        taken, shown = seconds(COMMANDS[name])
        ours.append(taken)
        reference.append(seconds(REFERENCE)[0])
    assert "mnist" in shown if name == "data list" else "fit" in shown
    median, base = statistics.median(ours), statistics.median(reference)
    print(
        f"\nntdh-bench {name}: {median:.3f} s, `import jsonargparse, rich`: {base:.3f} s, "
        f"ratio {median / base:.2f} (target <= {TARGET})"
    )


@pytest.mark.benchmark
@pytest.mark.parametrize("then", ["", PARSE], ids=["imports", "imports and a config"])
def test_a_worker_starts_with_less(then: str) -> None:
    ours, whole = [], []
    for _ in range(5):  # the first pair is not counted
        ours.append(seconds(["-c", WORKER + then])[0])
        whole.append(seconds(["-c", WHOLE + then])[0])
    median, base = statistics.median(ours[1:]), statistics.median(whole[1:])
    print(f"\na worker: {median:.2f} s, with whole packages {base:.2f} s: {median / base:.2f}")
