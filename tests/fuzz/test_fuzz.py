"""Damaged files: one clear error or a sound value, never a traceback, a crash or a hang."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ntdh_bench.errors import FileError
from tests.fuzz import campaign, mutations
from tests.fuzz.campaign import in_process_of_its_own, run
from tests.fuzz.readers import READERS, Reader

QUICK, LONG = 60, 2000


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_files(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    outcome = run(reader, tmp_path, QUICK, seed=0)
    assert not outcome.faults, "\n".join(outcome.faults[:10])


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_many_damaged_files(reader: Reader) -> None:
    outcome = in_process_of_its_own(reader, LONG, seed=1)
    assert not outcome.faults, "\n".join(outcome.faults[:10])


SOUND = b"sound content that nobody may quote\n" * 3


def _refusing(message: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        if path.read_bytes() != SOUND:
            raise FileError(message.format(path=path)) from None
        return 0

    return read


def _doing(action: Callable[[], Any]) -> Callable[[Path], Any]:
    return lambda path: 0 if path.read_bytes() == SOUND else action()


def _raise() -> None:
    raise KeyError("name")


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (_doing(_raise), "other exception"),
        (_doing(lambda: 1), "invalid accepted"),
        (_doing(lambda: bytearray(200 << 20) and 0), "allocation"),
        (_doing(lambda: time.sleep(0.3)), "hang"),
        (_refusing("damaged"), "file not named"),
        (_refusing("{path}: nobody-may-quote-this"), "content quoted"),
    ],
)
def test_a_campaign_finds_what_must_not_happen(
    read: Callable[[Path], Any], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "SECONDS", 0.2)

    def write(folder: Path) -> Path:
        (folder / "x.txt").write_bytes(SOUND)
        return folder / "x.txt"

    def mutate(content: bytes, chance: Any) -> bytes:
        return b"nobody-may-quote-this and nothing else"

    monkeypatch.setattr(mutations, "text", mutate)
    reader = Reader("x", write, read, mutate, valid=lambda value: not value)
    assert run(reader, tmp_path, 1, seed=0).counts[fault] == 1


def test_a_crash_is_counted(tmp_path: Path) -> None:
    def write(folder: Path) -> Path:
        (folder / "x.txt").write_bytes(SOUND)
        return folder / "x.txt"

    reader = Reader("x", write, _doing(os.abort))
    assert in_process_of_its_own(reader, 1, seed=0).counts["crash"] == 1
