"""The driver of a sweep: which runs are left, who runs them, and their records. No torch."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from ntdh_bench.errors import UserError
from ntdh_bench.experiments import Run
from ntdh_bench.records.columns import RecordError
from ntdh_bench.records.files import check_record, write_record
from ntdh_bench.sweep.engine import Engine, Finished
from ntdh_bench.sweep.store import Store

_TICK = 0.5  # seconds between looks at the clock, and at runs that another sweep holds


class Failure(NamedTuple):
    """A run that failed, and why (one line)."""

    run: Run
    reason: str


@dataclass
class Outcome:
    """What a sweep has done so far.

    Attributes:
        done: runs finished here.
        elsewhere: runs that another sweep finished meanwhile.
        left: runs not finished yet, those in flight included.
        running: runs in flight here.
        retried: attempts that failed and were repeated.
        seconds: sum over the finished runs.
        failures: in the order in which they were given up.
        damaged: records that could not be read, under their new names.
    """

    left: int
    done: int = 0
    elsewhere: int = 0
    running: int = 0
    retried: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)


class _InFlight(NamedTuple):
    run: Run
    lock: FileLock
    started: float


class Driver:
    """Runs what is not complete, once each, also when several drivers share a store.

    Args:
        runs: those to do; equal hashes count once.
        store: prepared.
        engine: does the runs.
        timeout: seconds after which a run is killed and has failed; None: never.
        retries: how often a failed run is repeated, after all others.
        keep: the extras that are collected; a record without them is a failure.
        report: called with the outcome so far at every event, and at least twice a second.
        outcome: what is done is counted there; default: a new one.
        rerun: do runs although they are complete; a record stays until the new one replaces it.
    """

    def __init__(
        self,
        runs: Iterable[Run],
        store: Store,
        engine: Engine,
        timeout: float | None = None,
        retries: int = 0,
        keep: Sequence[str] = (),
        report: Callable[[Outcome], None] = lambda outcome: None,
        outcome: Outcome | None = None,
        rerun: bool = False,
    ) -> None:
        self._pending = deque({run.hash: run for run in runs}.values())
        self._elsewhere: deque[Run] = deque()
        self._in_flight: dict[str, _InFlight] = {}
        self._attempts: Counter[str] = Counter()
        self._store, self._engine, self._report = store, engine, report
        self._timeout, self._retries, self._keep = timeout, retries, keep
        self._rerun = rerun
        self.outcome = outcome or Outcome(left=len(self._pending))

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
                self.outcome.running = len(self._in_flight)
                self._report(self.outcome)
        finally:
            for flight in self._in_flight.values():
                flight.lock.release()

    def _submit(self) -> None:
        while self._pending and self._engine.idle:
            run = self._pending.popleft()
            lock = self._store.claim(run.hash)
            if lock is None:
                self._elsewhere.append(run)
            elif self._is_complete(run):
                lock.release()
                self.outcome.elsewhere += 1
                self.outcome.left -= 1
            else:
                self._in_flight[run.hash] = _InFlight(run, lock, time.monotonic())
                self._engine.submit(run)

    def _is_complete(self, run: Run) -> bool:
        """Look into the store, with the lock held; a damaged record is set aside."""
        damaged = self._store.set_aside_damaged(run.hash, self._keep)
        if damaged is not None:
            self.outcome.damaged.append(damaged)
        return not self._rerun and self._store.record(run.hash).exists()

    def _finish(self, finished: Finished) -> None:
        run, lock, started = self._in_flight.pop(finished.run)
        try:
            if finished.record is None:
                self._fail(run, str(finished.failure))
                return
            record = {**finished.record, "run": run.hash}
            check_record(record, self._keep)
            write_record(self._store.record(run.hash), record)
            self.outcome.done += 1
            self.outcome.left -= 1
            self.outcome.seconds += time.monotonic() - started
        except RecordError as error:
            self._fail(run, str(error))
        finally:
            lock.release()

    def _stop_at_full_disk(self, news: Iterable[Finished]) -> None:
        for finished in news:
            if finished.disk_full:
                raise UserError(
                    f"the sweep stops, as a disk is full: {finished.failure} (run {finished.run}, "
                    f"--runs {self._store.root}); the same command goes on when there is room"
                )

    def _fail(self, run: Run, reason: str) -> None:
        self._attempts[run.hash] += 1
        if self._attempts[run.hash] <= self._retries:
            self.outcome.retried += 1
            self._pending.append(run)
        else:
            self.outcome.failures.append(Failure(run, reason))
            self.outcome.left -= 1

    def _kill_overdue(self) -> None:
        if self._timeout is None:
            return
        now = time.monotonic()
        for flight in list(self._in_flight.values()):
            if now - flight.started > self._timeout:
                self._engine.kill(flight.run.hash)
                reason = f"killed after {self._timeout:g} s (--timeout)"
                self._finish(Finished(flight.run.hash, failure=reason))
