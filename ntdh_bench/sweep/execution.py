"""What a worker of any engine does with a job."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from ntdh_bench.errors import DataError, NotStackable, UserError, one_line
from ntdh_bench.startup import import_once
from ntdh_bench.sweep.engine import leave_cluster

RunFunction: TypeAlias = Callable[
    [list[dict[str, Any]], Path], Sequence[dict[str, Any] | UserError]
]


def load_function(name: str) -> RunFunction:
    """Import ``module:function``, in a process that does nothing else."""
    leave_cluster()
    module, _, function = name.partition(":")
    loaded: RunFunction = getattr(import_once(module), function)
    return loaded


def execute(
    function: RunFunction, configs: list[dict[str, Any]], folder: Path, log: Path, keep: bool
) -> str:
    """Run configs; returns what :class:`~.engine.Finished` says beside the job, as JSON text.

    Args:
        function: runs them.
        configs: of the runs.
        folder: scratch; made before the runs.
        log: gets all output of this process meanwhile, and the traceback of a failure.
        keep: leave the folder, which may be there already: a later attempt goes on from it.
    """
    try:
        with output_to(log):
            return _execute(function, configs, folder, keep)
    except OSError as error:  # the log cannot be opened
        return _failure(error)


def _execute(function: RunFunction, configs: list[dict[str, Any]], folder: Path, keep: bool) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=keep)
        found = function(configs, folder)
        if len(found) != len(configs):
            raise ValueError(f"{len(found)} records of {len(configs)} runs")
        full = any(_is_of_full_disk(each) for each in found if isinstance(each, BaseException))
        results = ", ".join(map(_result, found))
        return f'{{"results": [{results}], "disk_full": {json.dumps(full)}}}'
    except BaseException as error:  # a SystemExit, too, ends the job and not the worker
        with suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
        return _failure(error)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        gc.collect()  # Trainer, model and data refer to each other: gigabytes after some runs


def _result(found: Any) -> str:
    """Return what :class:`~.engine.Result` says of a run, as JSON text."""
    try:
        if isinstance(found, BaseException):
            raise found
        if not isinstance(found, dict):
            raise TypeError(f"the run returned a {type(found).__name__}, which is no record")
        return json.dumps({"record": found})
    except Exception as error:
        with suppress(OSError):
            traceback.print_exc()
        return json.dumps({"failure": in_words(error), "no_data": isinstance(error, DataError)})


def _failure(error: BaseException) -> str:
    kinds = {
        "disk_full": _is_of_full_disk(error),
        "alone": isinstance(error, NotStackable),
        "no_data": isinstance(error, DataError),
    }
    return json.dumps({"failure": in_words(error), **kinds})


def _is_of_full_disk(error: BaseException | None) -> bool:
    """Return whether an exception, or one that it came of, says that a disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def in_words(error: BaseException) -> str:
    """Return an exception as one line: a UserError says all by itself, others with their type."""
    text = str(error)
    return one_line(text if isinstance(error, UserError) else f"{type(error).__name__}: {text}")


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Append standard output and error to a file, those of libraries and subprocesses too."""
    saved = [(stream, os.dup(stream)) for stream in (1, 2)]
    _flush()
    with path.open("ab") as file:
        for stream, _ in saved:
            os.dup2(file.fileno(), stream)
    try:
        yield
    finally:
        _flush()
        for stream, copy in saved:
            os.dup2(copy, stream)
            os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a full disk loses output, not the worker
            stream.flush()
