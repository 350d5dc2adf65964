"""How long a worker takes to parse the runs of an experiment, against parsing each from nothing."""

from __future__ import annotations

import time

import pytest

from ntdh_bench.experiments import find_experiment, load_experiment
from ntdh_bench.parsing import parser
from ntdh_bench.runs import Run
from ntdh_bench.runs.session import quiet_lightning

RUNS = 60


@pytest.mark.benchmark
def test_runs_of_an_experiment_are_parsed() -> None:
    configs = [run.config for run in load_experiment(find_experiment("table3_features")).runs]

    def seconds(anew: bool) -> float:
        start = time.perf_counter()
        for config in configs[:RUNS]:
            if anew:
                parser._PARSERS.clear()
                parser._parse_once.cache_clear()
            Run.parse("fit", config=config)
        return (time.perf_counter() - start) / RUNS

    with quiet_lightning():
        Run.parse("fit", config=configs[0])
        naive, ours = seconds(anew=True), seconds(anew=False)
    print(f"\na config: {1e3 * ours:.0f} ms, from nothing {1e3 * naive:.0f}: {naive / ours:.1f}x")
