"""What sharing saves: the 60 cells of Table II in one sweep, and as separate commands.

Simulated MNIST, 5 epochs, one seed. A separate command starts Python, trains its own joint teacher
and runs Algorithm 1 if it has a mask; every seventh cell is timed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ntdh_bench.composition import parse_assignment
from ntdh_bench.experiments import find_experiment, load_experiment

SETTINGS = (
    "data.init_args.source=simulated",
    "data.init_args.simulated_train=1000",
    "data.init_args.simulated_test=200",
    "trainer.max_epochs=5",
)
METHODS = ("FitNet", "CRD", "RKD", "PKT", "SP", "DKD")
CELLS, EVERY, TARGET = 60, 7, 3


def timed(words: list[str], cache: Path) -> float:
    start = time.monotonic()
    command = [sys.executable, "-m", "ntdh_bench", *words]
    environment = {**os.environ, "NTDH_CACHE": str(cache)}
    environment.pop("OMP_NUM_THREADS")  # both ways use all cores
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.monotonic() - start


@pytest.mark.benchmark
def test_table2_against_separate_commands(tmp_path: Path) -> None:
    experiment = load_experiment(find_experiment("table2"), dict(map(parse_assignment, SETTINGS)))
    cells = [
        run
        for run in experiment.runs
        if run.protocol == "mnist" and run.seed == 0 and run.labels["method"] in METHODS
    ]
    assert len(cells) == CELLS
    cache = tmp_path / "cache"

    words = ["fit", "--config", str(tmp_path / "cell.yaml"), "--run_dir", str(tmp_path / "runs")]
    separate = []
    for run in [cells[0], *cells[::EVERY]]:  # the first one generates the data: not counted
        (tmp_path / "cell.yaml").write_text(yaml.safe_dump(run.config))
        separate.append(timed(words, cache))
        for shared in ("teachers", "saliency"):
            shutil.rmtree(cache / shared, ignore_errors=True)
    naive = CELLS / len(separate[1:]) * sum(separate[1:])

    flags = [word for setting in SETTINGS for word in ("--set", setting)]
    only = ["--only", "seed=0", "--only", f"method={','.join(METHODS)}"]
    folders = ["--runs", str(tmp_path / "store"), "--results", str(tmp_path / "results")]
    whole = timed(["sweep", "table2", "--name", "cells", *flags, *only, *folders], cache)
    print(
        f"\nTable II, {CELLS} cells, simulated, 5 epochs: sweep {whole:.0f} s; separate commands "
        f"{naive:.0f} s (from {len(separate) - 1} of them); {naive / whole:.1f} times "
        f"(target >= {TARGET})"
    )
