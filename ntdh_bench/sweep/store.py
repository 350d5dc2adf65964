"""The folder a sweep works in: records, logs, locks and scratch folders, named by the run's hash.

A run is held by a lock while it is in flight, so that several sweeps can share one folder. The
operating system frees the locks of a killed sweep. A stack has a name as a run has, a log for all
its members, and a folder that stays while it is not finished: the same stack goes on from there.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ntdh_bench.cache import digest, write_atomic
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.experiments import Experiment
from ntdh_bench.files.schema import mismatch
from ntdh_bench.files.text import read_json
from ntdh_bench.records.collecting import record_path
from ntdh_bench.records.columns import RecordError
from ntdh_bench.records.files import read_run
from ntdh_bench.records.rows import csv_path, read_rows
from ntdh_bench.sweep.estimate import Timing

_FOLDERS = ("records", "logs", "locks", "work", "stacks")
_HASH = re.compile(r"\.?([0-9a-f]{16})\b")
_MEMBERS = "runs.json"
_MAX_MEMBERS_BYTES = 1 << 20  # of that file


class Store:
    """Paths and locks below one folder.

    Args:
        root: the folder; made by :meth:`prepare`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the folders, and remove what killed sweeps left in them.

        Raises:
            UserError: the folder cannot be written.
        """
        _allow_many_files()
        with self._writing():
            for name in _FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)
        half_written = (self.root / "records").glob(".*")
        stacks = (self.root / "stacks").iterdir()
        of_no_use = [path for path in stacks if not self._unfinished(path)]
        for path in [*half_written, *(self.root / "work").iterdir(), *of_no_use]:
            self._remove_leftover(path)

    def _remove_leftover(self, path: Path) -> None:
        name = _HASH.match(path.name)
        lock = self.claim(name[1]) if name else None
        if lock is None:  # not ours, or in use by another sweep
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        lock.release()

    def record(self, run: str) -> Path:
        """Return where the record of a run goes."""
        return record_path(self.root, run)

    def log(self, run: str) -> Path:
        """Return where the output of a run goes."""
        return self.root / "logs" / f"{run}.log"

    @property
    def workers_log(self) -> Path:
        """Where the output of worker processes goes while they have no run."""
        return self.root / "logs" / "workers.log"

    def scratch(self, run: str, process: int) -> Path:
        """Return the folder that a run may use in a worker process; it is removed afterwards."""
        return self.root / "work" / f"{run}-{process}"

    def refer(self, run: str, stack: str, reason: str) -> None:
        """Say in the log of a run why it failed in a stack, and where the stack's log is.

        Raises:
            UserError: the folder cannot be written.
        """
        with self._writing(), self.log(run).open("a") as file:
            file.write(f"failed in a stack: {reason}\nits log: {self.log(stack).absolute()}\n")

    def stack(self, name: str) -> Path:
        """Return the folder of a stack, which stays until its records are written."""
        return self.root / "stacks" / name

    def begin_stack(self, name: str, runs: Sequence[str]) -> None:
        """Make the folder of a stack, if it is not there, and note the hashes of its members.

        Raises:
            UserError: the folder cannot be written.
        """
        with self._writing(), write_atomic(self.stack(name) / _MEMBERS) as temporary:
            temporary.write_text(json.dumps(list(runs)))

    def end_stack(self, name: str) -> None:
        """Remove the folder of a stack."""
        shutil.rmtree(self.stack(name), ignore_errors=True)

    def unfinished_stacks(self) -> list[list[str]]:
        """Return the hashes of the members of stacks that were interrupted and can go on."""
        folders = (self.root / "stacks").glob("*")
        return [members for members in map(self._unfinished, sorted(folders)) if members]

    def _unfinished(self, folder: Path) -> list[str]:
        """Return the members of a stack with a checkpoint, none of which is complete; else none."""
        try:
            members = read_json(folder / _MEMBERS, _MAX_MEMBERS_BYTES)
        except FileError:
            return []
        named = mismatch(members, [str]) is None and all(map(_HASH.fullmatch, members))
        if not named or digest(members) != folder.name or not any(folder.rglob("*.ckpt")):
            return []
        return [] if any(self.record(run).exists() for run in members) else list(members)

    def claim(self, name: str) -> FileLock | None:
        """Return the lock of a run or a stack, now held by this process; None: by another one."""
        lock = FileLock(self.root / "locks" / f"{name}.lock")
        with self._writing():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return None
        return lock

    def set_aside_damaged(self, run: str, keep: Sequence[str]) -> Path | None:
        """Rename the record of a run if it cannot be collected; returns its new path, else None.

        The caller holds the lock of the run.

        Raises:
            UserError: the folder cannot be written.
        """
        path = self.record(run)
        try:
            read_run(path, run, keep)
        except RecordError:
            if path.exists():
                with self._writing():
                    return path.rename(path.with_name(f"{path.name}.damaged"))
        return None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write to {self.root}: {error.strerror}; make room, or give --runs a "
                "folder that can be written"
            ) from None


def _allow_many_files() -> None:
    """Let this process hold a lock for every member of every stack in flight."""
    with suppress(ImportError, OSError, ValueError):  # Windows; a system's own limit
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def finished_runs(experiment: Experiment, store: Store, results: Path) -> dict[str, Timing]:
    """Return hash -> time of the runs that are complete: in the store, or in the CSV.

    A run whose record cannot be collected is not complete.

    Raises:
        UserError: the CSV is of another schema.
    """
    path = csv_path(results, experiment.name)
    rows = read_rows(path).rows if path.is_file() else []
    timings = {row["run"]: _timing(row) for row in rows}
    for run in experiment.runs:
        path = store.record(run.hash)
        try:
            timings[run.hash] = _timing(read_run(path, run.hash, experiment.keep))
        except RecordError:
            if path.exists():
                timings.pop(run.hash, None)
    return timings


def _timing(record: Mapping[str, Any]) -> Timing:
    return Timing(float(record.get("seconds") or 0), bool(record.get("stack")))
