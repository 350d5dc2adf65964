"""A worker process of the local engine: jobs come in by stdin and answers go out by stdout.

Both are lines of JSON. The end of stdin means that the driver is gone, however it went: the worker
then ends, in the middle of a job too.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TextIO

from ntdh_bench.sweep.execution import execute, in_words, load_function
from ntdh_bench.sweep.store import Store

_GRACE = 0.5  # seconds an idle worker has to end by itself
_Jobs = SimpleQueue[Any]


def main() -> None:
    """Do jobs until stdin ends; arguments: ``module:function`` and the store's folder."""
    function_name, root = sys.argv[1:]
    store = Store(Path(root))
    jobs, answers = _take_over_streams(store.workers_log)
    try:
        function = load_function(function_name)
    except BaseException as error:
        traceback.print_exc()
        print(json.dumps({"broken": in_words(error)}), file=answers)
        return
    print(json.dumps({"ready": True}), file=answers)
    while (job := jobs.get()) is not None:
        name, configs = job["name"], job["configs"]
        several = len(configs) > 1
        folder = store.stack(name) if several else store.scratch(name, os.getpid())
        print(execute(function, configs, folder, store.log(name), keep=several), file=answers)


def _take_over_streams(log: Path) -> tuple[_Jobs, TextIO]:
    """Keep stdin and stdout for the driver, and give what a run may call the usual ones instead."""
    requests = os.fdopen(os.dup(0))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    with Path(os.devnull).open("rb") as nothing, log.open("ab") as file:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    jobs: _Jobs = SimpleQueue()
    Thread(target=_read, args=(requests, jobs), daemon=True).start()
    return jobs, answers


def _read(requests: TextIO, jobs: _Jobs) -> None:
    for line in requests:
        jobs.put(json.loads(line))
    jobs.put(None)
    time.sleep(_GRACE)
    os.killpg(0, signal.SIGKILL)  # the worker leads its process group: what it started goes too


if __name__ == "__main__":
    main()
