"""What a sweep costs beside its runs: 500 stub runs of 0.1 s in one pool."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ntdh_bench.cache import digest
from ntdh_bench.experiments import Run
from ntdh_bench.records.files import read_record
from ntdh_bench.sweep.driver import Driver
from ntdh_bench.sweep.local import LocalEngine
from ntdh_bench.sweep.store import Store

RUNS, SECONDS, JOBS = 500, 0.1, 2
TARGET = 0.10
STUB = """
import time

from stubs import make_record

def run(configs, folder):
    start = time.monotonic()
    time.sleep(configs[0]["seconds"])
    return [{**make_record(0), "span": [start, time.monotonic()]}]
"""


@pytest.mark.benchmark
def test_time_outside_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sleeping.py").write_text(STUB)
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "ntdh_bench" / "sweep")
    monkeypatch.syspath_prepend(tmp_path)
    store = Store(tmp_path / "store")
    store.prepare()
    configs: list[dict[str, Any]] = [{"seconds": SECONDS, "number": i} for i in range(RUNS)]
    runs = [Run(digest(config), "stub", 0, {}, config) for config in configs]
    with closing(LocalEngine(store, JOBS, function="sleeping:run")) as engine:
        while engine.idle < JOBS:  # start-up is not measured
            engine.wait(0.1)
        start = time.monotonic()
        driver = Driver([[run] for run in runs], store, engine)
        driver.drive()
        wall = time.monotonic() - start
    assert driver.outcome.done == RUNS
    spans = [read_record(store.record(run.hash))["span"] for run in runs]
    inside = sum(end - begin for begin, end in spans) / JOBS
    print(
        f"\n{RUNS} runs of {SECONDS} s by {JOBS} workers: {wall:.2f} s, "
        f"{100 * (1 - inside / wall):.1f} % of it outside the runs (target <= {100 * TARGET:.0f} %)"
    )
    assert 1 - inside / wall <= TARGET
