"""The driver of a sweep: which runs are left, who runs them, and their records. No torch."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from ntdh_bench.cache import digest
from ntdh_bench.composition import arguments_of
from ntdh_bench.errors import UserError
from ntdh_bench.experiments import Run
from ntdh_bench.notices import notice, say
from ntdh_bench.records.columns import RecordError
from ntdh_bench.records.files import check_record, write_record
from ntdh_bench.stacks.progress import told
from ntdh_bench.sweep.engine import Engine, Finished, Job, Result
from ntdh_bench.sweep.store import Store

_TICK = 0.5  # seconds between looks at the clock, and at runs that another sweep holds


class Failure(NamedTuple):
    """A run that failed, and why (one line).

    Attributes:
        run: that it is; the first, where others failed with it.
        reason: one line.
        runs: how many these are: all on the same data, if it was the data that failed.
    """

    run: Run
    reason: str
    runs: int = 1


@dataclass
class Outcome:
    """What a sweep has done so far.

    Attributes:
        done: runs finished here.
        elsewhere: runs that another sweep finished meanwhile.
        left: runs not finished yet, those in flight included.
        running: runs in flight here, every member of a stack counted.
        retried: attempts that failed and were repeated.
        divided: stacks that failed as a whole, and were done again in parts.
        stages: of the stacks in flight, how far each is, in words.
        seconds: sum over the finished runs.
        failures: in the order in which they were given up.
        damaged: records that could not be read, under their new names.
    """

    left: int
    done: int = 0
    elsewhere: int = 0
    running: int = 0
    retried: int = 0
    divided: int = 0
    stages: list[str] = field(default_factory=list)
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Number of runs that failed."""
        return sum(failure.runs for failure in self.failures)


class _InFlight(NamedTuple):
    job: Job
    locks: list[FileLock]
    started: float


class Driver:
    """Runs what is not complete, once each, also when several drivers share a store.

    A stack that fails as a whole, because the memory is too small for it, say, is done again in
    halves, down to single runs: so no member takes the others with it. Where the data of a run
    cannot be had, those of the same data fail with it, without being started.

    Args:
        jobs: the runs to do, those of a stack together; equal hashes count once.
        store: prepared.
        engine: does the jobs.
        timeout: seconds for each of its runs after which a job is killed; None: never.
        retries: how often a failed run is repeated, alone and after all others.
        keep: the extras that are collected; a record without them is a failure.
        report: called with the outcome so far at every event, and at least twice a second.
        outcome: what is done is counted there; default: a new one.
        rerun: do runs although they are complete; a record stays until the new one replaces it.
    """

    def __init__(
        self,
        jobs: Iterable[Sequence[Run]],
        store: Store,
        engine: Engine,
        timeout: float | None = None,
        retries: int = 0,
        keep: Sequence[str] = (),
        report: Callable[[Outcome], None] = lambda outcome: None,
        outcome: Outcome | None = None,
        rerun: bool = False,
    ) -> None:
        self._pending = deque(_once(jobs))
        self._elsewhere: deque[Job] = deque()
        self._in_flight: dict[str, _InFlight] = {}
        self._attempts: Counter[str] = Counter()
        self._no_data: dict[str, int] = {}  # data to its place among the failures
        self._store, self._engine, self._report = store, engine, report
        self._timeout, self._retries, self._keep = timeout, retries, keep
        self._rerun = rerun
        self.outcome = outcome or Outcome(left=sum(len(job.runs) for job in self._pending))

    def drive(self) -> None:
        """Return when every run is complete or has failed; see :attr:`outcome`.

        Raises:
            UserError: the workers cannot start, the store cannot be written, or a disk is full.
        """
        try:
            while self._pending or self._elsewhere or self._in_flight:
                self._submit()
                news = self._engine.wait(_TICK)
                for finished in news:
                    self._finish(finished)
                self._stop_at_full_disk(news)
                self._kill_overdue()
                if not self._pending:
                    self._pending, self._elsewhere = self._elsewhere, deque()
                self.outcome.running = sum(len(f.job.runs) for f in self._in_flight.values())
                self.outcome.stages = self._stages()
                self._report(self.outcome)
        finally:
            for flight in self._in_flight.values():
                _release(flight.locks)

    def _stages(self) -> list[str]:
        stacks = [name for name, flight in self._in_flight.items() if len(flight.job.runs) > 1]
        return [stage for name in stacks if (stage := told(self._store.stack(name)))]

    def _submit(self) -> None:
        while self._pending and self._engine.idle:
            job = self._pending.popleft()
            if (data := _data_of(job.runs[0])) in self._no_data:
                for run in job.runs:
                    self._give_up(run, data)
                continue
            locks = self._claim(job)
            if locks is None:
                continue
            self._in_flight[job.name] = _InFlight(job, locks, time.monotonic())
            if len(job.runs) > 1:
                self._store.begin_stack(job.name, [run.hash for run in job.runs])
            self._engine.submit(job)

    def _claim(self, job: Job) -> list[FileLock] | None:
        """Return the locks of a job whose runs are all to do here; else None, and queue the rest.

        A stack has a lock of its own, so that two sweeps with the same one do not halve it.
        """
        locks: list[FileLock] = []
        if len(job.runs) > 1:
            lock = self._store.claim(job.name)
            if lock is None:
                self._elsewhere.append(job)
                return None
            locks.append(lock)
        held, left = [], []
        for run in job.runs:
            lock = self._store.claim(run.hash)
            if lock is None:
                held.append(run)
                continue
            locks.append(lock)
            if self._is_complete(run):
                self.outcome.elsewhere += 1
                self.outcome.left -= 1
            else:
                left.append(run)
        if len(left) == len(job.runs):
            return locks
        _release(locks)
        self._elsewhere.extend([Job(tuple(held))] if held else [])
        self._pending.extendleft([Job(tuple(left))] if left else [])
        return None

    def _is_complete(self, run: Run) -> bool:
        """Look into the store, with the lock held; a damaged record is set aside."""
        damaged = self._store.set_aside_damaged(run.hash, self._keep)
        if damaged is not None:
            self.outcome.damaged.append(damaged)
        return not self._rerun and self._store.record(run.hash).exists()

    def _finish(self, finished: Finished) -> None:
        job, locks, started = self._in_flight.pop(finished.job)
        try:
            if finished.results is not None:
                done = self.outcome.done
                for run, result in zip(job.runs, finished.results, strict=True):
                    self._take(run, result, job)
                if self.outcome.done > done:
                    self.outcome.seconds += time.monotonic() - started
            elif len(job.runs) == 1 or finished.disk_full or finished.no_data:
                for run in job.runs:
                    self._fail(run, finished.reason, job, finished.no_data)
            else:
                self._divide(job, finished)
            if len(job.runs) > 1 and not finished.disk_full:
                self._store.end_stack(job.name)
        finally:
            _release(locks)

    def _take(self, run: Run, result: Result, job: Job) -> None:
        """Write the record of a run, if it has one that can be collected."""
        if result.record is None:
            self._fail(run, str(result.failure), job, result.no_data)
            return
        try:
            record = {**result.record, "run": run.hash}
            check_record(record, self._keep)
            write_record(self._store.record(run.hash), record)
        except RecordError as error:
            self._fail(run, str(error), job)
        else:
            self.outcome.done += 1
            self.outcome.left -= 1
            cell = ", ".join(f"{axis}={label}" for axis, label in run.labels.items())
            say(f"done: {cell or run.protocol}, seed {run.seed}", detail=True)

    def _divide(self, job: Job, finished: Finished) -> None:
        """Queue a stack in halves; run by run if its members do not go together."""
        if not self.outcome.divided:  # said once: what is too large for one is so for others
            how = "run by run" if finished.alone else "in halves"
            notice(
                f"a stack of {len(job.runs)} runs is done again {how}: {finished.reason}; log: "
                f"{self._store.log(job.name)}"
            )
        self.outcome.divided += 1
        size = 1 if finished.alone else (len(job.runs) + 1) // 2
        for start in range(0, len(job.runs), size):
            self._pending.append(Job(job.runs[start : start + size]))

    def _stop_at_full_disk(self, news: Iterable[Finished]) -> None:
        for finished in news:
            if finished.disk_full:
                raise UserError(
                    f"the sweep stops, as a disk is full: {finished.reason} (run {finished.job}, "
                    f"--runs {self._store.root}); the same command goes on when there is room"
                )

    def _fail(self, run: Run, reason: str, job: Job, no_data: bool = False) -> None:
        if len(job.runs) > 1:
            self._store.refer(run.hash, job.name, reason)
        if no_data:
            self._give_up(run, _data_of(run), reason)
            return
        self._attempts[run.hash] += 1
        if self._attempts[run.hash] <= self._retries:
            self.outcome.retried += 1
            self._pending.append(Job((run,)))
        else:
            self.outcome.failures.append(Failure(run, reason))
            self.outcome.left -= 1

    def _give_up(self, run: Run, data: str, reason: str = "") -> None:
        """Count a run without data to the first of them, whose reason is that of all."""
        failures = self.outcome.failures
        if data in self._no_data:
            first = failures[self._no_data[data]]
            failures[self._no_data[data]] = first._replace(runs=first.runs + 1)
        else:
            self._no_data[data] = len(failures)
            failures.append(Failure(run, reason))
        self.outcome.left -= 1

    def _kill_overdue(self) -> None:
        if self._timeout is None:
            return
        now = time.monotonic()
        for job, _, started in list(self._in_flight.values()):
            limit = self._timeout * len(job.runs)
            if now - started > limit:
                self._engine.kill(job.name)
                reason = f"killed after {limit:g} s (--timeout)"
                self._finish(Finished(job.name, failure=reason))


def _data_of(run: Run) -> str:
    """Return what is the same in two runs that need the same files."""
    modality = arguments_of(run.config.get("model")).get("modality")
    return digest([run.config.get("data"), modality])


def _once(jobs: Iterable[Sequence[Run]]) -> Iterator[Job]:
    """Yield the jobs without the runs that an earlier one has."""
    seen: set[str] = set()
    for runs in jobs:
        own = {run.hash: run for run in runs if run.hash not in seen}
        seen |= own.keys()
        if own:
            yield Job(tuple(own.values()))


def _release(locks: Iterable[FileLock]) -> None:
    for lock in locks:
        lock.release()
