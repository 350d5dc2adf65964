"""What a worker of any engine does with a run."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from ntdh_bench.errors import UserError

RunFunction: TypeAlias = Callable[[dict[str, Any], Path], dict[str, Any]]


def load_function(name: str) -> RunFunction:
    """Import ``module:function``."""
    module, _, function = name.partition(":")
    loaded: RunFunction = getattr(import_module(module), function)
    gc.freeze()  # imports stay: collecting after each run need not look at them
    return loaded


def execute(function: RunFunction, config: dict[str, Any], folder: Path, log: Path) -> str:
    """Run a config, and return ``{"record": ...}`` or ``{"failure": one line}`` as JSON text.

    Args:
        function: runs it.
        config: of the run.
        folder: scratch; made before and removed after the run.
        log: gets all output of this process meanwhile, and the traceback of a failure.
    """
    with output_to(log):
        try:
            folder.mkdir(parents=True)
            record = function(config, folder)
            if not isinstance(record, dict):
                raise TypeError(f"the run returned {record!r}, which is no record")
            return json.dumps({"record": record})
        except BaseException as error:  # a SystemExit, too, ends the run and not the worker
            traceback.print_exc()
            return json.dumps({"failure": one_line(error)})
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            gc.collect()  # Trainer, model and data refer to each other: gigabytes after some runs


def one_line(error: BaseException) -> str:
    """Return an exception as one line: a UserError says all by itself, others with their type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


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
    sys.stdout.flush()
    sys.stderr.flush()
