"""Damages the file of a reader many times over, and counts what must never happen.

``python -m tests.fuzz.campaign --seed 1 --mutations 200`` runs every reader in a process of its own
and prints a line for each; the exit status is 1 if anything happened that must not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntdh_bench.errors import LONGEST, UserError
from tests.fuzz.readers import READERS, Reader

SECONDS = 5.0
HEADROOM = 64 << 20
_WORD = re.compile(rb"[!-~]{14,}")


@dataclass
class Outcome:
    """What came of a reader's mutations.

    Attributes:
        counts: ``refused``, ``accepted``, and kinds of what must not happen.
        faults: what must not happen, a line each with the number of the mutation.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def fault(self, kind: str, number: int, what: str) -> None:
        self.counts[kind] += 1
        self.faults.append(f"{kind} at mutation {number}: {what[:300]}")


def run(reader: Reader, folder: Path, mutations: int, seed: int) -> Outcome:
    """Damage the file ``mutations`` times (less for slow readers), each time from the sound one."""
    pristine = folder / "pristine"
    pristine.mkdir()
    path = reader.write(pristine)
    good = path.read_bytes()
    expected = reader.read(path) if not reader.rebuilt else _of_copy(reader, pristine, path, folder)
    assert reader.valid(expected), f"{reader.name}: the sound file is refused by its own check"
    outcome = Outcome()
    for number in range(max(1, round(mutations * reader.share))):
        chance = random.Random(f"{seed}:{reader.name}:{number}")
        content = reader.mutate(good, chance)
        target = path
        if reader.rebuilt:
            target = _copy(pristine, path, folder)
        target.write_bytes(content)
        _try(reader, target, content, expected, number, outcome)
    return outcome


def _copy(pristine: Path, path: Path, folder: Path) -> Path:
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(pristine, work)
    return work / path.relative_to(pristine)


def _of_copy(reader: Reader, pristine: Path, path: Path, folder: Path) -> Any:
    return reader.read(_copy(pristine, path, folder))


def _try(
    reader: Reader, path: Path, content: bytes, expected: Any, number: int, outcome: Outcome
) -> None:
    started = time.monotonic()
    tracemalloc.start()
    try:
        value = reader.read(path)
    except UserError as error:
        _judge_error(reader, path, content, str(error), number, outcome)
    except Exception as error:
        outcome.fault("other exception", number, f"{type(error).__name__}: {error}")
    else:
        if reader.rebuilt and value != expected:
            outcome.fault("invalid accepted", number, "a cache that is not what it was")
        elif not reader.valid(value):
            outcome.fault("invalid accepted", number, repr(value))
        else:
            outcome.counts["accepted"] += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if peak > 3 * len(content) + HEADROOM:
        outcome.fault("allocation", number, f"{peak} bytes for a file of {len(content)}")
    if time.monotonic() - started > SECONDS:
        outcome.fault("hang", number, f"{time.monotonic() - started:.1f} s")


def _judge_error(
    reader: Reader, path: Path, content: bytes, message: str, number: int, outcome: Outcome
) -> None:
    outcome.counts["refused"] += 1
    if reader.rebuilt:
        outcome.fault("cache not rebuilt", number, message)
    if len(message) > LONGEST or "\n" in message:
        outcome.fault("long message", number, message)
    if path.name not in message and path.parent.name not in message:
        outcome.fault("file not named", number, message)
    own = re.sub(rf"{re.escape(str(path.parent))}/\S+", "", message)  # it, or one that it names
    for key in reader.named:
        own = own.replace(key, "")
    if reader.text and any(word.decode() in own for word in _WORD.findall(content)):
        outcome.fault("content quoted", number, message)


def _in_child(reader: Reader, mutations: int, seed: int, answers: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries say of damaged files
    warnings.simplefilter("ignore")
    os.environ["NTDH_CACHE"] = tempfile.mkdtemp(prefix="ntdh-fuzz-cache-")
    folder = Path(tempfile.mkdtemp(prefix="ntdh-fuzz-"))
    signal.alarm(3600)
    try:
        answers.send(run(reader, folder, mutations, seed))
    except Exception:  # of the campaign itself
        answers.send(traceback.format_exc())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(os.environ["NTDH_CACHE"], ignore_errors=True)


def in_process_of_its_own(reader: Reader, mutations: int, seed: int) -> Outcome:
    """As :func:`run`, in a forked process, whose crash is counted."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(reader, mutations, seed, there))
    child.start()
    there.close()
    try:
        outcome: Outcome | str = here.recv()
    except EOFError:
        outcome = Outcome()
    child.join()
    if isinstance(outcome, str):
        raise RuntimeError(f"{reader.name}: {outcome}")
    if child.exitcode:
        outcome.fault("crash", -1, f"exit status {child.exitcode}")
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutations", type=int, default=250, help="of each reader")
    parser.add_argument("--only", default="", help="part of the readers' names")
    options = parser.parse_args()
    total: Counter[str] = Counter()
    for reader in (r for r in READERS if options.only in r.name):
        started = time.monotonic()
        outcome = in_process_of_its_own(reader, options.mutations, options.seed)
        total += outcome.counts
        seconds = time.monotonic() - started
        print(f"{reader.name:<24} {seconds:6.1f} s  {dict(outcome.counts)}", flush=True)
        for fault in outcome.faults[:8]:
            print(f"    {fault}")
    print(f"{sum(total[k] for k in ('refused', 'accepted'))} read, {dict(total)}")
    return 1 if set(total) - {"refused", "accepted"} else 0


if __name__ == "__main__":
    sys.exit(main())
