"""The driver and the local engine, on stub runs in real worker processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ntdh_bench.errors import UserError
from ntdh_bench.experiments import Run
from ntdh_bench.records.files import read_record, write_record
from ntdh_bench.sweep.driver import Driver, Outcome
from ntdh_bench.sweep.engine import cores, default_jobs, gpus, stack_memory, thread_count
from ntdh_bench.sweep.local import LocalEngine
from ntdh_bench.sweep.store import Store
from tests.typed import some

STUBS = Path(__file__).with_name("stubs.py")
of_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def stub_runs(trace: Path, count: int, **settings: Any) -> list[Run]:
    from stubs import make_runs  # type: ignore[import-not-found]

    return list(make_runs(trace, count, **settings))


def make_record(number: int, run: str) -> dict[str, Any]:
    import stubs  # type: ignore[import-not-found]

    return dict(stubs.make_record(number, run))


def drive(
    runs: list[Run], store: Store, jobs: int = 2, function: str = "stubs:run", **settings: Any
) -> Outcome:
    with closing(LocalEngine(store, jobs, function=function)) as engine:
        driver = Driver([[run] for run in runs], store, engine, **settings)
        driver.drive()
    return driver.outcome


def lines(trace: Path, kind: str) -> list[str]:
    return [line for line in trace.read_text().splitlines() if line.startswith(kind)]


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def wait_until(condition: Any, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_runs_in_order_and_writes_records_and_logs(store: Store, trace: Path) -> None:
    runs = stub_runs(trace, 5)
    outcome = drive([*runs, runs[0]], store, jobs=1)
    assert (outcome.done, outcome.left, outcome.failures) == (5, 0, [])
    assert [line.split()[1] for line in lines(trace, "start")] == list("01234")
    assert len({line.split()[2] for line in lines(trace, "start")}) == 1  # one worker for all
    for run in runs:
        record = read_record(store.record(run.hash))
        assert record["run"] == run.hash
        assert record["metrics"]["last"]["test"]["accuracy"] == 0.1 + run.seed / 100
        log = store.log(run.hash).read_text().splitlines()
        assert log == [f"output of run {run.seed}", "output of a subprocess"]
    assert list((store.root / "work").iterdir()) == []


def test_what_has_a_record_is_not_run(store: Store, trace: Path) -> None:
    runs = stub_runs(trace, 4)
    for run in runs[:3]:
        write_record(store.record(run.hash), make_record(run.seed, run.hash))
    outcome = drive(runs, store)
    assert (outcome.done, outcome.elsewhere, outcome.left) == (1, 3, 0)
    assert len(lines(trace, "start")) == 1


@pytest.mark.parametrize("fault", ["cut short", "of another run"])
def test_a_record_that_is_none_is_set_aside_and_run_again(
    fault: str, store: Store, trace: Path
) -> None:
    one, other = stub_runs(trace, 2)
    path = store.record(one.hash)
    write_record(path, make_record(0, other.hash if fault == "of another run" else one.hash))
    if fault == "cut short":
        path.write_text(path.read_text()[:9])
    wrong = path.read_text()
    outcome = drive([one], store)
    (damaged,) = outcome.damaged
    assert damaged.name == f"{one.hash}.json.damaged"
    assert damaged.read_text() == wrong
    assert read_record(path)["run"] == one.hash


@pytest.mark.parametrize(
    ("act", "reason", "in_log"),
    [
        ("fail", "ValueError: a mistake in two lines", "Traceback"),
        ("user_error", "mnist: no files in data/", "Traceback"),
        ("system_exit", "SystemExit: 3", "Traceback"),
        ("exit", "the worker ended with exit status 7", "output of run"),
        ("killed", "the worker was killed by SIGKILL (out of memory?)", "output of run"),
    ],
)
def test_a_failing_run_leaves_the_others_alone(
    store: Store, trace: Path, act: str, reason: str, in_log: str
) -> None:
    (bad,) = stub_runs(trace, 1, act=act)
    outcome = drive([bad, *stub_runs(trace, 3)], store, jobs=1)
    assert outcome.done == 3
    (failure,) = outcome.failures
    assert failure.run == bad
    assert failure.reason == reason
    assert in_log in store.log(bad.hash).read_text()
    assert not store.record(bad.hash).exists()
    assert list((store.root / "work").iterdir()) == []


def test_what_is_no_record_is_a_failure(store: Store, trace: Path) -> None:
    outcome = drive(stub_runs(trace, 2), store, jobs=1, function="stubs:no_record")
    reasons = [failure.reason for failure in outcome.failures]
    assert "which is no record" in reasons[0]
    assert "not JSON serializable" in reasons[1]


@of_linux
def test_a_hanging_run_is_killed_with_its_children(store: Store, trace: Path) -> None:
    (bad,) = stub_runs(trace, 1, act="hang")
    outcome = drive([bad, *stub_runs(trace, 3)], store, jobs=1, timeout=1.0)
    assert outcome.done == 3
    (failure,) = outcome.failures
    assert failure.reason == "killed after 1 s (--timeout)"
    pids = [int(line.split()[-1]) for kind in ("start 0", "child") for line in lines(trace, kind)]
    assert len(pids) >= 2
    assert not any(map(is_alive, pids))
    assert list((store.root / "work").iterdir()) == []


def test_retries(store: Store, trace: Path) -> None:
    flaky, (bad,) = stub_runs(trace, 2, act="flaky"), stub_runs(trace, 1, act="killed")
    outcome = drive([*flaky, bad], store, retries=1)
    assert (outcome.done, outcome.retried) == (2, 3)
    assert [failure.run for failure in outcome.failures] == [bad]


def test_runs_without_data_fail_together(store: Store, trace: Path) -> None:
    """No retries, and of the runs on the same data no more than are in flight."""
    gone = stub_runs(trace, 5, act="no_data", data={"name": "gone"})
    speech = {"init_args": {"modality": "teacher"}}
    alone = stub_runs(trace, 2, data={"name": "gone"}, model=speech)
    here = stub_runs(trace, 2, data={"name": "here"})
    outcome = drive([*gone, *alone, *here], store, jobs=1, retries=2)
    assert (outcome.done, outcome.retried, outcome.failed, outcome.left) == (4, 0, 5, 0)
    assert outcome.failures == [(gone[0], "data/gone is missing", 5)]
    assert len(lines(trace, "start")) == 5


def test_workers_that_cannot_start_end_the_sweep(store: Store, trace: Path) -> None:
    for function, reason in (("stubs:absent", "absent"), ("no_such_module:run", "no_such_module")):
        with pytest.raises(UserError, match=f"cannot start.*{reason}.*log"):
            drive(stub_runs(trace, 1), store, jobs=1, function=function)
    assert "Traceback" in store.workers_log.read_text()


@pytest.mark.parametrize(("kills", "jobs"), [(2, 1), (2, 2), (5, 2)])
def test_workers_killed_while_starting_are_started_again(
    store: Store, trace: Path, monkeypatch: pytest.MonkeyPatch, kills: int, jobs: int
) -> None:
    """One of two workers may be given up: the other goes on, and its run in flight is not lost."""
    monkeypatch.setenv("STUBS_KILLS", str(kills))
    monkeypatch.setenv("STUBS_STARTS", str(trace.with_name("starts")))
    outcome = drive(stub_runs(trace, 4), store, jobs, "dies_at_start:run")
    assert (outcome.done, outcome.failures) == (4, [])
    # The last of several may be starting yet when all is done.
    assert kills < len(trace.with_name("starts").read_text()) <= kills + jobs


def test_a_worker_that_is_killed_whenever_it_starts_is_given_up(
    store: Store, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUBS_KILLS", "99")
    monkeypatch.setenv("STUBS_STARTS", str(trace.with_name("starts")))
    with pytest.raises(UserError, match=r"killed by SIGKILL .*, 3 times; see"):
        drive(stub_runs(trace, 1), store, function="dies_at_start:run")
    assert len(trace.with_name("starts").read_text()) == 6


@pytest.mark.parametrize("full", ["log", "run"])
def test_a_full_disk_stops_the_sweep_with_one_line(store: Store, trace: Path, full: str) -> None:
    """Not a worker for every run; what was done is kept."""
    good, bad, *left = stub_runs(trace, 6, act="disk_full" if full == "run" else "ok", bad=1)
    if full == "log":
        store.log(bad.hash).symlink_to("/dev/full")
    with closing(LocalEngine(store, 1, function="stubs:run")) as engine:
        driver = Driver([[run] for run in (good, bad, *left)], store, engine)
        with pytest.raises(UserError, match=r"a disk is full: .*No space left") as raised:
            driver.drive()
        assert engine.idle == 1  # no worker was lost
    assert str(store.root) in str(raised.value)
    assert driver.outcome.done == 1
    assert len(lines(trace, "start")) == 2


def test_a_record_that_cannot_be_collected_is_a_failure(store: Store, trace: Path) -> None:
    (bad,) = stub_runs(trace, 1, accuracy=float("inf"))
    (far,) = stub_runs(trace, 1, accuracy=1.5)
    outcome = drive([bad, far, *stub_runs(trace, 2)], store)
    assert outcome.done == 2
    reasons = {failure.run.hash: failure.reason for failure in outcome.failures}
    assert "last_test_accuracy: inf is not a finite number" in reasons[bad.hash]
    assert "last_test_accuracy: 1.5 is not in [0, 1]" in reasons[far.hash]
    outcome = drive(stub_runs(trace, 1, note="kept"), store, keep=("curves",))
    assert "the curves of run" in outcome.failures[0].reason
    assert len(list((store.root / "records").iterdir())) == 2


def test_a_job_of_a_cluster_is_no_matter_of_its_runs(
    store: Store, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("RANK", "3")
    (run,) = stub_runs(trace, 1)
    drive([run], store)
    assert read_record(store.record(run.hash))["variables"]["SLURM_NTASKS"] is None


def test_a_runs_own_share_of_the_machine(
    store: Store, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr("ntdh_bench.sweep.local.cores", lambda: 9)
    runs = stub_runs(trace, 6, seconds=0.2)
    drive(runs, store, jobs=3)
    seen = [read_record(store.record(run.hash))["variables"] for run in runs]
    assert {(e["OMP_NUM_THREADS"], e["MKL_NUM_THREADS"]) for e in seen} == {("3", "3")}
    assert {e["CUDA_VISIBLE_DEVICES"] for e in seen} == {"3", "5"}


def test_no_more_workers_than_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("ntdh_bench.sweep.local.cores", lambda: 8)
    with closing(LocalEngine(store, 4, n_runs=1, function="stubs:run")) as engine:
        assert (engine.jobs, engine.threads) == (1, 2)  # threads as with all four


def test_cores_where_the_system_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    assert cores() == os.cpu_count()


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert [default_jobs(*sizes) for sizes in ((0, 1, 8), (2, 1, 8), (2, 0.25, 8))] == [8, 2, 8]
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [thread_count(jobs, 8) for jobs in (1, 3, 16)] == [8, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert thread_count(8, 8) == 2
    for visible, expected in ((" 1, 0", ["1", "0"]), ("", []), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpus() == expected
    for name in ("nvidia3", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    monkeypatch.setattr("ntdh_bench.sweep.engine._DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpus() == ["0", "1"]  # CUDA counts those that a container has


def test_the_memory_of_a_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr("ntdh_bench.sweep.engine._CONTAINER", limit)
    there = stack_memory(1, 0, 1.0)
    assert 2**26 < there < 2**50
    for text in ("max\n", f"{2**60}\n"):
        limit.write_text(text)
        assert stack_memory(1, 0, 1.0) == there
    limit.write_text(f"{2**20}\n")
    assert [stack_memory(jobs, 0, 1.0) for jobs in (1, 4)] == [2**19, 2**17]
    monkeypatch.setenv("PATH", str(tmp_path))
    shares = [stack_memory(4, 2, share) / 0.8 for share in (0.5, 1.0, 2.0)]
    assert shares == [2**33, 2**34, 2**34]  # what is assumed
    tool = tmp_path / "nvidia-smi"
    for says, expected in (("echo 81559; echo 40960", 40 * 2**30), ("exit 9", 2**34), ("", 2**34)):
        tool.write_text(f"#!/bin/sh\n{says}\n")
        tool.chmod(0o755)
        assert stack_memory(1, 2, 1.0) / 0.8 == expected


# -- several drivers, and killed ones ------------------------------------------------------------


def start(
    store: Store, trace: Path, count: int, jobs: int, act: str = "ok", size: int = 1
) -> subprocess.Popen[str]:
    """Start a driver of stub runs, ``size`` a job, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, STUBS, store.root, trace, str(count), str(jobs), act, str(size)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def assert_whole(store: Store, trace: Path, count: int) -> None:
    """Every run has one record, and was not started again once it had one."""
    expected = stub_runs(trace, count, seconds=0.1, act="ok")
    files = sorted(path.name for path in (store.root / "records").iterdir())
    assert files == sorted(f"{run.hash}.json" for run in expected)
    seeds = sorted(read_record(store.root / "records" / name)["seed"] for name in files)
    assert seeds == list(range(count))
    assert list((store.root / "work").iterdir()) == []


@of_linux
def test_killed_at_random_moments(store: Store, trace: Path) -> None:
    """Five kill -9, of the driver and mostly its workers too: only runs in flight are repeated."""
    count, jobs, kills = 20, 2, 5
    shuffled = random.Random(0)
    recorded: list[set[str]] = []
    for kill in range(kills):
        driver = start(store, trace, count, jobs)
        with some(driver.stdout) as shown:
            assert shown.readline() == "started\n"
            before = len(lines(trace, "start")) if trace.exists() else 0
            wait_until(lambda before=before: trace.exists() and len(lines(trace, "start")) > before)
            time.sleep(shuffled.uniform(0, 0.3))
            workers = children(driver.pid)
            driver.kill()
            for worker in workers[: 0 if kill == 2 else jobs]:
                os.kill(worker, signal.SIGKILL)
            driver.wait()
        assert len(workers) == jobs
        assert wait_until(lambda workers=workers: not any(map(is_alive, workers)), 3)
        recorded.append({path.stem for path in (store.root / "records").glob("[0-9a-f]*.json")})
        (store.root / "work" / f"{'0' * 16}-1").mkdir()  # as of a run killed with its worker
        (store.root / "records" / f".{'0' * 16}.json.1234.json").write_text("{")
    assert len(recorded[-1]) < count, "too fast to be killed halfway"
    assert all(a <= b for a, b in pairwise(recorded))
    done, elsewhere = start(store, trace, count, jobs).communicate()[0].split()[1:]
    assert int(done) == count - int(elsewhere) == count - len(recorded[-1])
    assert_whole(store, trace, count)
    assert count <= len(lines(trace, "start")) <= count + kills * jobs


@of_linux
def test_workers_end_in_mid_run_when_their_driver_is_gone(store: Store, trace: Path) -> None:
    driver = start(store, trace, 1, 1, "hang")
    assert wait_until(lambda: trace.exists() and len(lines(trace, "child")) == 1)
    driver.kill()
    driver.communicate()
    pids = [int(line.split()[-1]) for line in trace.read_text().splitlines()]
    assert len(pids) == 2
    assert wait_until(lambda: not any(map(is_alive, pids)), 3)


def test_two_drivers_share_the_work(store: Store, trace: Path) -> None:
    drivers = [start(store, trace, 20, 2) for _ in range(2)]
    outcomes = [driver.communicate(timeout=60)[0].split()[1:] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0]
    assert sum(int(done) for done, _ in outcomes) == 20
    assert all(int(done) + int(elsewhere) == 20 for done, elsewhere in outcomes)
    assert all(int(done) > 0 for done, _ in outcomes), "one was done before the other started"
    assert_whole(store, trace, 20)
    assert len(lines(trace, "start")) == 20


def test_waits_for_a_run_that_another_sweep_holds(store: Store, trace: Path) -> None:
    held, other = stub_runs(trace, 2)
    lock = some(store.claim(held.hash))
    assert store.claim(held.hash) is None

    def finish_elsewhere(outcome: Outcome) -> None:
        if outcome.left == 1 and not store.record(held.hash).exists():
            write_record(store.record(held.hash), make_record(0, held.hash))
            lock.release()

    outcome = drive([held, other], store, jobs=1, report=finish_elsewhere)
    assert (outcome.done, outcome.elsewhere, outcome.left) == (1, 1, 0)
    assert [line.split()[1] for line in lines(trace, "start")] == ["1"]


def test_takes_over_what_another_sweep_gave_up(store: Store, trace: Path) -> None:
    (held,) = stub_runs(trace, 1)
    lock = some(store.claim(held.hash))
    outcome = drive([held], store, jobs=1, report=lambda outcome: lock.release())
    assert (outcome.done, outcome.elsewhere) == (1, 0)


def test_leftovers_of_a_running_sweep_stay(store: Store) -> None:
    name = "0123456789abcdef"
    kept = [store.scratch(name, 1), store.root / "work" / "readme"]
    for folder in kept:
        folder.mkdir()
    lock = some(store.claim(name))
    store.prepare()
    assert all(folder.exists() for folder in kept)
    lock.release()
    store.prepare()
    assert [folder.exists() for folder in kept] == [False, True]


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--runs"):
        Store(tmp_path / "file" / "store").prepare()
