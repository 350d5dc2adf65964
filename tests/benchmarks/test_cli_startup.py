"""How long the commands that run no model take to answer, as a ratio to their lightest imports."""

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
