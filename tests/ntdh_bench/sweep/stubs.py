"""Run functions for tests, and a sweep of them: ``python stubs.py STORE TRACE RUNS JOBS ACT SIZE``.

SIZE runs are a job.

Imported by workers, so it may not need pytest.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ntdh_bench.cache import digest
from ntdh_bench.errors import DataError, NotStackable, UserError
from ntdh_bench.experiments import Run
from ntdh_bench.sweep.driver import Driver
from ntdh_bench.sweep.local import LocalEngine
from ntdh_bench.sweep.store import Store

FUNCTION = "stubs:run"


def make_runs(trace: Path, count: int, **settings: Any) -> list[Run]:
    """Runs that append to ``trace`` what they do."""
    runs = []
    for number in range(count):
        config = {"seed_everything": number, "trace": str(trace), **settings}
        runs.append(Run(digest(config), "quick", number, {"model.act": "ok"}, config))
    return runs


def run(configs: list[dict[str, Any]], folder: Path) -> list[dict[str, Any] | UserError]:
    """Do one run, or several in a folder that stays, where what a user can cause fails alone."""
    assert folder.is_dir()
    if len(configs) == 1:
        assert not list(folder.iterdir())
        (folder / "scratch").write_text("x")
        return [_run(configs[0])]
    checkpoint = folder / "last.ckpt"
    how = "goes_on" if checkpoint.exists() else "starts"
    checkpoint.write_text("x")
    seeds = [str(config["seed_everything"]) for config in configs]
    _note(configs[0], f"stack {','.join(seeds)} {how}")
    if len(configs) > configs[0].get("most", len(configs)):
        raise UserError(f"{len(configs)} members are too many")
    if configs[0].get("act") == "no_data":
        _no_data(configs[0])
    if configs[0].get("unlike"):
        raise NotStackable("they are too different")
    return [_member(config) for config in configs]


def _member(config: dict[str, Any]) -> dict[str, Any] | UserError:
    try:
        return {**_run(config), "stack": 9}
    except UserError as error:
        return error


def _run(config: dict[str, Any]) -> dict[str, Any]:
    """Do what ``config["act"]`` says; the record says how."""
    number = config["seed_everything"]
    _note(config, f"start {number} {os.getpid()}")
    print(f"output of run {number}", flush=True)
    os.system("echo output of a subprocess")
    started = time.monotonic()
    _ACTS[config.get("act", "ok")](config)
    time.sleep(config.get("seconds", 0))
    _note(config, f"end {number} {os.getpid()}")
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SLURM_NTASKS")
    return {
        **make_record(number, accuracy=config.get("accuracy", 0.1 + number / 100)),
        "seconds": time.monotonic() - started,
        "span": [started, time.monotonic()],
        "variables": {name: os.environ.get(name) for name in names},
    }


def make_record(number: int, run: str | None = None, accuracy: float = 0.5) -> dict[str, Any]:
    """Return the record of a run, as far as it must be there to be collected."""
    versions = {"ntdh-bench": "0", "python": "3"}
    return {
        "run": run,
        "seed": number,
        "dataset": "synthetic",
        "source": "simulated",
        "arm": "kd",
        "config": {"model": {"init_args": {}}, "data": {"init_args": {}}, "mask": None},
        "metrics": {"last": {"test": {"accuracy": accuracy}}, "best": None},
        "parameters": {"teacher": 1, "student": 2},
        "environment": {"versions": versions, "device": "CPU", "threads": 1, "git_commit": None},
    }


def no_record(configs: list[dict[str, Any]], folder: Path) -> Any:
    """Return what is no record."""
    return [{"value": {1, 2}} if config["seed_everything"] else [1] for config in configs]


def too_few(configs: list[dict[str, Any]], folder: Path) -> Any:
    """Return a record too few."""
    return [_run(config) for config in configs[1:]]


def _note(config: dict[str, Any], line: str) -> None:
    with Path(config["trace"]).open("a") as file:  # one short append is atomic
        file.write(f"{line}\n")


def _fail(config: dict[str, Any]) -> None:
    raise ValueError("a mistake\nin two lines")


def _user_error(config: dict[str, Any]) -> None:
    raise UserError("mnist: no files in data/")


def _no_data(config: dict[str, Any]) -> None:
    raise DataError(f"data/{config['data']['name']} is missing")


def _flaky(config: dict[str, Any]) -> None:
    """Fail the first time."""
    if Path(config["trace"]).read_text().count(f"start {config['seed_everything']} ") == 1:
        raise OSError("lost")


def _unlucky(config: dict[str, Any]) -> None:
    """Fail the first time, by a fault of the run's own."""
    if Path(config["trace"]).read_text().count(f"start {config['seed_everything']} ") == 1:
        raise UserError("the loss is not finite")


def _disk_full(config: dict[str, Any]) -> None:
    """Find the disk full, but for the first run."""
    if config["seed_everything"]:
        Path("/dev/full").write_text("x")


def _hang(config: dict[str, Any]) -> None:
    """Hang together with a child that holds the streams of the worker."""
    child = subprocess.Popen(["sleep", "600"])
    _note(config, f"child {child.pid}")
    time.sleep(600)


def _wait(config: dict[str, Any]) -> None:
    """Go on when a file beside the trace says so."""
    while not Path(config["trace"]).with_name("go").exists():
        time.sleep(0.02)


_ACTS = {
    "ok": lambda config: None,
    "fail": _fail,
    "user_error": _user_error,
    "no_data": _no_data,
    "flaky": _flaky,
    "unlucky": _unlucky,
    "exit": lambda config: os._exit(7),
    "system_exit": lambda config: sys.exit(3),
    "killed": lambda config: os.kill(os.getpid(), signal.SIGKILL),
    "hang": _hang,
    "disk_full": _disk_full,
    "wait": _wait,
}


if __name__ == "__main__":
    place = Store(Path(sys.argv[1]))
    place.prepare()
    todo = make_runs(Path(sys.argv[2]), int(sys.argv[3]), seconds=0.1, act=sys.argv[5])
    size = int(sys.argv[6])
    jobs = [todo[start : start + size] for start in range(0, len(todo), size)]
    engine = LocalEngine(place, int(sys.argv[4]), function=FUNCTION)
    driver = Driver(jobs, place, engine)
    print("started", flush=True)
    driver.drive()
    engine.close()
    print(driver.outcome.done, driver.outcome.elsewhere)
