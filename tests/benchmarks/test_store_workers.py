"""Worker processes that read a store: memory of their own, against an array that is sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ntdh_bench.datamodules.ravdess.store import Fact, Store
from ntdh_bench.datamodules.semantickitti.store import PreparedSequence
from ntdh_bench.datamodules.store import Kinds, Sample

pytestmark = pytest.mark.benchmark

WORKERS, MIB = 2, 2**20
IMAGE = (1, 3, 256, 512)  # of RAVDESS: 393 kB a clip
FRAME = (3, 375, 1242)  # of SemanticKITTI: 1.4 MB, and 20,000 points of 21 bytes
POINTS = 20_000
CLIPS, FRAMES = 320, 80


class Rows(Dataset[tuple[int, dict[str, int]]]):
    """Reads row after row; gives what the process then takes, in bytes."""

    def __init__(self, source: Any, kind: str | None = None) -> None:
        self.source, self.kind = source, kind

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def rows(self) -> NDArray[Any]:
        found: NDArray[Any] = self.source if self.kind is None else self.source[self.kind]
        return found

    def __getitem__(self, index: int) -> tuple[int, dict[str, int]]:
        return int(self.rows[index].sum()), memory()


def memory() -> dict[str, int]:
    """Return bytes of this process: its own (copies), its share of all, and all it has mapped."""
    text = Path("/proc/self/smaps_rollup").read_text()
    kilobytes = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    return {name: int(kilobytes[name]) * 1024 for name in ("Anonymous", "Pss", "Rss")}


def clips(start: int) -> Iterable[tuple[Sample, Fact]]:
    for number in range(start, CLIPS):
        yield {"values": np.full(IMAGE, number % 251, np.uint8)}, Fact(f"{number}", None)


def ravdess(folder: Path) -> tuple[Store, str]:
    codes = product(range(1, 9), (1, 2), (1, 2), (1, 2), range(1, 25))
    valid = [c for c in codes if c[:2] != (1, 2)][:CLIPS]
    names = ["02-01-" + "-".join(f"{code:02d}" for code in clip) for clip in valid]
    kinds: Kinds = {"values": ("u1", IMAGE)}
    return Store.stored(folder / "video", names, kinds, clips, "writing"), "values"


def frames(start: int) -> Iterator[tuple[Sample, int]]:
    for number in range(start, FRAMES):
        yield (
            {
                "images": np.full(FRAME, number % 251, np.uint8),
                "pixel": np.arange(POINTS, dtype="<i4"),
                "points": np.full((POINTS, 4), number, "<f4"),
                "classes": np.zeros(POINTS, np.uint8),
            },
            POINTS,
        )


def semantickitti(folder: Path) -> tuple[PreparedSequence, str]:
    ragged: Kinds = {
        "pixel": ("<i4", (None,)), "points": ("<f4", (None, 4)), "classes": ("u1", (None,)),
    }  # fmt: skip
    names = [f"{number:06d}" for number in range(FRAMES)]
    kinds: Kinds = {"images": ("u1", FRAME), **ragged}
    return PreparedSequence.stored(folder / "08", names, kinds, frames, "writing"), "images"


def read(rows: Rows, context: str) -> tuple[list[int], list[dict[str, int]]]:
    """Read all rows in workers; returns their sums, and what each worker took at the end."""
    loader = DataLoader(rows, batch_size=None, num_workers=WORKERS, multiprocessing_context=context)
    found = list(loader)
    return [value for value, _ in found], [used for _, used in found[-WORKERS:]]


@pytest.mark.parametrize("make", [ravdess, semantickitti])
def test_workers_map_what_they_read(
    make: Callable[[Path], tuple[Any, str]], tmp_path: Path
) -> None:
    store, kind = make(tmp_path)
    held = np.array(store[kind])
    wanted = held.reshape(len(held), -1).sum(axis=1, dtype=np.int64).tolist()
    sizes = {}
    cases = {
        "nothing": Rows(held[:WORKERS]), "store": Rows(store, kind), "array": Rows(held),
    }  # fmt: skip
    for name, rows in cases.items():
        values, used = read(rows, "spawn")
        assert values == wanted[: len(rows)]
        sizes[name] = {key: max(one[key] for one in used) / MIB for key in used[0]}
    stored = held.nbytes / MIB
    base = sizes["nothing"]
    for name in ("store", "array"):
        own, share = (sizes[name][key] - base[key] for key in ("Anonymous", "Pss"))
        print(
            f"\n{make.__name__}, {stored:.0f} MiB, {WORKERS} workers, {name}: own memory of one "
            f"{own:+.1f} MiB, its share of all {share:+.1f} MiB"
        )
    copied = sizes["array"]["Anonymous"] - base["Anonymous"]
    assert sizes["store"]["Anonymous"] - base["Anonymous"] < copied / 10
