"""Several runs a job: the driver and the local engine, on stub runs in real worker processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ntdh_bench.errors import UserError
from ntdh_bench.experiments import Run
from ntdh_bench.records.files import read_record, write_record
from ntdh_bench.sweep.driver import Driver, Outcome
from ntdh_bench.sweep.engine import Engine, Finished, Job, Result
from ntdh_bench.sweep.local import LocalEngine
from ntdh_bench.sweep.store import Store
from tests.ntdh_bench.sweep.test_driver import (
    lines,
    make_record,
    start,
    stub_runs,
    wait_until,
)
from tests.typed import some


def drive(
    jobs: Sequence[Sequence[Run]], store: Store, workers: int = 1, **settings: Any
) -> Outcome:
    function = settings.pop("function", "stubs:run")
    with closing(LocalEngine(store, workers, function=function)) as engine:
        driver = Driver(jobs, store, engine, **settings)
        driver.drive()
    return driver.outcome


def stacks(trace: Path) -> list[str]:
    """Seeds of the stacks that were begun, and whether they went on from a checkpoint."""
    return [line.removeprefix("stack ") for line in lines(trace, "stack")]


def name_of(runs: Sequence[Run]) -> str:
    return Job(tuple(runs)).name


def assert_done(runs: Sequence[Run], store: Store) -> None:
    for run in runs:
        record = read_record(store.record(run.hash))
        assert (record["run"], record["seed"]) == (run.hash, run.seed)


def test_the_members_of_a_stack_have_a_record_each_and_one_log(store: Store, trace: Path) -> None:
    runs = stub_runs(trace, 5)
    outcome = drive([runs[:3], [runs[3]], runs], store)
    assert (outcome.done, outcome.left, outcome.failures) == (5, 0, [])
    assert stacks(trace) == ["0,1,2 starts"]
    assert [line.split()[1] for line in lines(trace, "start")] == list("01234")
    assert_done(runs, store)
    assert [read_record(store.record(run.hash)).get("stack") for run in runs] == [9] * 3 + [
        None
    ] * 2
    log = store.log(name_of(runs[:3])).read_text()
    assert [f"output of run {seed}\n" in log for seed in range(4)] == [True] * 3 + [False]
    assert not list((store.root / "stacks").iterdir())
    assert not list((store.root / "work").iterdir())


def test_progress_counts_every_member(store: Store, trace: Path) -> None:
    runs = stub_runs(trace, 4, act="wait")
    seen: set[tuple[int, int]] = set()

    def report(outcome: Outcome) -> None:
        seen.add((outcome.running, outcome.left))
        if outcome.running:
            trace.with_name("go").touch()

    assert drive([runs], store, report=report).done == 4
    assert {(4, 4), (0, 0)} <= seen


def test_a_member_that_fails_leaves_the_others_alone(store: Store, trace: Path) -> None:
    good, (bad,) = stub_runs(trace, 3), stub_runs(trace, 1, act="user_error")
    outcome = drive([[bad, *good]], store)
    assert (outcome.done, outcome.divided) == (3, 0)
    (failure,) = outcome.failures
    assert failure == (bad, "mnist: no files in data/", 1)
    told = store.log(bad.hash).read_text()
    assert "failed in a stack: mnist: no files in data/" in told
    log = Path(told.splitlines()[-1].removeprefix("its log: "))
    assert "Traceback" in log.read_text()
    assert not list((store.root / "stacks").iterdir())


def test_what_failed_in_a_stack_is_repeated_alone(store: Store, trace: Path) -> None:
    runs = [*stub_runs(trace, 2), *stub_runs(trace, 4, act="unlucky")[2:]]
    outcome = drive([runs], store, retries=1)
    assert (outcome.done, outcome.retried, outcome.failures) == (4, 2, [])
    assert stacks(trace) == ["0,1,2,3 starts"]
    assert [line.split()[1] for line in lines(trace, "start")] == list("012323")
    assert "stack" not in read_record(store.record(runs[3].hash))


def test_what_is_no_record_fails_alone(store: Store, trace: Path) -> None:
    (first, second) = stub_runs(trace, 2)
    far = stub_runs(trace, 3, accuracy=1.5)[2]
    outcome = drive([[first, far, second]], store)
    assert outcome.done == 2
    assert "1.5 is not in [0, 1]" in outcome.failures[0].reason
    outcome = drive([stub_runs(trace, 2, x=1)], store, function="stubs:no_record")
    reasons = [failure.reason for failure in outcome.failures]
    assert "which is no record" in reasons[0]
    assert "not JSON serializable" in reasons[1]


# -- stacks that fail as a whole -----------------------------------------------------------------


def test_a_stack_that_is_too_large_is_halved_and_said_once(
    store: Store, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = stub_runs(trace, 7, most=2)
    outcome = drive([runs], store)
    assert (outcome.done, outcome.divided, outcome.retried) == (7, 3, 0)
    assert stacks(trace) == [
        "0,1,2,3,4,5,6 starts", "0,1,2,3 starts", "4,5,6 starts", "0,1 starts", "2,3 starts",
        "4,5 starts",
    ]  # fmt: skip
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "halves" in line]
    log = store.log(name_of(runs))
    assert f"a stack of 7 runs is done again in halves: 7 members are too many; log: {log}" in said
    assert_done(runs, store)
    assert not list((store.root / "stacks").iterdir())


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        ("killed", "the worker was killed by SIGKILL (out of memory?)"),
        ("exit", "the worker ended with exit status 7"),
        ("fail", "ValueError: a mistake in two lines"),
        ("hang", "killed after 0.5 s (--timeout)"),
    ],
)
def test_a_member_that_ends_its_worker_takes_no_other_with_it(
    store: Store, trace: Path, act: str, reason: str
) -> None:
    (bad,) = stub_runs(trace, 1, act=act)
    good = stub_runs(trace, 4)[1:]
    timeout = 0.5 if act == "hang" else None
    outcome = drive([[*good[:2], bad, good[2]]], store, timeout=timeout)
    assert (outcome.done, outcome.divided) == (3, 2)
    assert outcome.failures == [(bad, reason, 1)]
    assert_done(good, store)
    assert not list((store.root / "stacks").iterdir())


def test_members_that_do_not_go_together_are_done_one_by_one(
    store: Store, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = stub_runs(trace, 5, unlike=True)
    outcome = drive([runs], store)
    assert (outcome.done, outcome.divided) == (5, 1)
    assert len(stacks(trace)) == 1
    assert "done again run by run: they are too different" in capsys.readouterr().err


def test_a_worker_that_returns_a_record_too_few_is_at_fault(store: Store, trace: Path) -> None:
    outcome = drive([stub_runs(trace, 2)], store, function="stubs:too_few")
    assert [failure.reason for failure in outcome.failures] == [
        "ValueError: 0 records of 1 runs"
    ] * 2


def test_a_stack_has_the_time_of_all_its_runs(store: Store, trace: Path) -> None:
    runs = stub_runs(trace, 6, seconds=0.2)
    outcome = drive([runs], store, timeout=0.5)
    assert (outcome.done, outcome.divided) == (6, 0)


def test_a_full_disk_stops_the_sweep_and_keeps_the_stack(store: Store, trace: Path) -> None:
    runs = stub_runs(trace, 3, act="disk_full")
    with pytest.raises(UserError, match=r"a disk is full: .*No space left"):
        drive([runs], store)
    assert store.unfinished_stacks() == [[run.hash for run in runs]]


# -- several sweeps ------------------------------------------------------------------------------


class OneAtATime(Engine):
    """Does what it is given at once, in this process: all succeed."""

    jobs, threads, n_gpus = 1, 1, 0

    def __init__(self) -> None:
        self.given: list[Job] = []
        self._news: list[Finished] = []

    @property
    def idle(self) -> int:
        return not self._news

    def submit(self, job: Job) -> None:
        self.given.append(job)
        results = [Result(make_record(run.seed, run.hash)) for run in job.runs]
        self._news.append(Finished(job.name, results))

    def wait(self, seconds: float) -> list[Finished]:
        news, self._news = self._news, []
        return news

    def kill(self, job: str) -> None: ...

    def close(self) -> None: ...


def seeds(jobs: Sequence[Job]) -> list[list[int]]:
    return [[run.seed for run in job.runs] for job in jobs]


def test_members_held_elsewhere_drop_out_and_complete_ones_too(store: Store, trace: Path) -> None:
    runs = stub_runs(trace, 6)
    locks = [some(store.claim(run.hash)) for run in runs[1:3]]
    write_record(store.record(runs[4].hash), make_record(4, runs[4].hash))

    def give_up(outcome: Outcome) -> None:
        if outcome.left == 2:
            for lock in locks:
                lock.release()

    engine = OneAtATime()
    driver = Driver([runs], store, engine, report=give_up)
    driver.drive()
    assert seeds(engine.given) == [[0, 3, 5], [1, 2]]
    assert (driver.outcome.done, driver.outcome.elsewhere, driver.outcome.left) == (5, 1, 0)
    assert all(store.claim(run.hash) is not None for run in runs)  # no lock is left


def test_a_stack_without_data_is_not_done_in_parts(store: Store, trace: Path) -> None:
    runs = stub_runs(trace, 6, act="no_data", data={"name": "gone"})
    outcome = drive([runs[:4], runs[4:]], store)
    assert (outcome.divided, outcome.left) == (0, 0)
    assert outcome.failures == [(runs[0], "data/gone is missing", 6)]
    assert len(stacks(trace)) <= 2
    assert not list((store.root / "stacks").iterdir())


def test_a_stack_held_elsewhere_is_waited_for_and_stays_whole(store: Store, trace: Path) -> None:
    """Its members may not be split between two sweeps that claim them at the same time."""
    runs = stub_runs(trace, 4)
    lock = some(store.claim(name_of(runs[:3])))
    engine = OneAtATime()
    driver = Driver([runs[:3], runs[3:]], store, engine, report=lambda outcome: lock.release())
    driver.drive()
    assert seeds(engine.given) == [[3], [0, 1, 2]]


def test_two_sweeps_share_the_stacks(store: Store, trace: Path) -> None:
    drivers = [start(store, trace, 20, 1, size=5) for _ in range(2)]
    outcomes = [driver.communicate(timeout=60)[0].split()[1:] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0]
    assert sum(int(done) for done, _ in outcomes) == 20
    assert sorted(stacks(trace)) == sorted(
        f"{','.join(map(str, range(first, first + 5)))} starts" for first in range(0, 20, 5)
    )
    assert not list((store.root / "stacks").iterdir())


# -- what is interrupted -------------------------------------------------------------------------


def test_a_killed_sweep_goes_on_with_the_same_stacks(store: Store, trace: Path) -> None:
    """From the folder of the one in flight; its runs are not complete before all of it is."""
    driver = start(store, trace, 6, 1, "wait", size=3)
    assert wait_until(lambda: trace.exists() and lines(trace, "start"))
    driver.kill()
    driver.communicate()
    runs = stub_runs(trace, 6, seconds=0.1, act="wait")
    assert wait_until(lambda: store.claim(runs[0].hash) is not None)
    store.prepare()
    assert store.unfinished_stacks() == [[run.hash for run in runs[:3]]]
    trace.with_name("go").touch()
    outcome = drive([runs[:3], runs[3:]], store)
    assert outcome.done == 6
    assert stacks(trace) == ["0,1,2 starts", "0,1,2 goes_on", "3,4,5 starts"]
    assert store.unfinished_stacks() == []


def begun(store: Store, runs: Sequence[Run], checkpoint: bool = True) -> Path:
    """Leave the folder of a stack that was interrupted."""
    folder = store.stack(name_of(runs))
    store.begin_stack(folder.name, [run.hash for run in runs])
    if checkpoint:
        (folder / "students.ckpt").write_text("x")
    return folder


def test_what_is_left_of_stacks_that_cannot_go_on_is_removed(store: Store, trace: Path) -> None:
    runs = stub_runs(trace, 12)
    whole = begun(store, runs[:3])
    useless = [begun(store, runs[3:5], checkpoint=False), begun(store, runs[5:8])]
    write_record(store.record(runs[6].hash), make_record(6, runs[6].hash))
    held = begun(store, runs[8:10], checkpoint=False)
    lock = some(store.claim(held.name))
    assert store.unfinished_stacks() == [[run.hash for run in runs[:3]]]
    store.prepare()
    assert [path.exists() for path in (whole, *useless, held)] == [True, False, False, True]
    lock.release()
    store.prepare()
    assert not held.exists()


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "{}", "[1]", "[null]", '["../../x"]', "[]", '"0123456789abcdef"', "[[]]",
        '["0123456789abcdef"]', "[" * 10_000, "x" * (1 << 21),
    ],
)  # fmt: skip
def test_a_list_of_members_that_is_not_as_it_was_written_is_none(
    store: Store, trace: Path, text: str
) -> None:
    folder = begun(store, stub_runs(trace, 3))
    (folder / "runs.json").write_text(text)
    assert store.unfinished_stacks() == []
    store.prepare()
    assert not folder.exists()


def test_a_list_of_members_is_written_whole(store: Store, trace: Path) -> None:
    runs = stub_runs(trace, 3)
    folder = begun(store, runs)
    assert json.loads((folder / "runs.json").read_text()) == [run.hash for run in runs]
    store.begin_stack(folder.name, [run.hash for run in runs])  # as an attempt that goes on does
    assert sorted(path.name for path in folder.iterdir()) == ["runs.json", "students.ckpt"]


def test_a_stack_without_a_folder_to_write_to_is_one_line(store: Store, trace: Path) -> None:
    runs = stub_runs(trace, 2)
    store.stack(name_of(runs)).write_text("in the way")
    with pytest.raises(UserError, match="cannot write to"):
        drive([runs], store)


def test_files_enough_for_the_locks_of_large_stacks(store: Store, trace: Path) -> None:
    """A lock is an open file: as many as the system lets a process have, once a store is ready."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        store.prepare()
        engine = OneAtATime()
        runs = stub_runs(trace, 300)
        Driver([runs], store, engine).drive()
        assert seeds(engine.given) == [list(range(300))]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
