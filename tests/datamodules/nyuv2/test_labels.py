from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from ntdh_bench.datamodules.nyuv2.labels import (
    NYU13_NAMES,
    NYU40_NAMES,
    NYU40_TO_NYU13,
    SSC_NAMES,
    target_table,
)


def test_names() -> None:
    assert [len(set(names)) for names in (NYU40_NAMES, NYU13_NAMES, SSC_NAMES)] == [40, 13, 12]


def test_thirteen_classes() -> None:
    assert NYU40_TO_NYU13.shape == (41,)
    assert set(NYU40_TO_NYU13) == set(range(14))
    names = {
        name: NYU13_NAMES[NYU40_TO_NYU13[label] - 1] for label, name in enumerate(NYU40_NAMES, 1)
    }
    kept = [name for name in NYU13_NAMES if name in NYU40_NAMES]
    assert len(kept) == 10
    assert all(names[name] == name for name in kept)
    assert {name for name, coarse in names.items() if coarse == "furniture"} == {
        "cabinet", "bookshelf", "counter", "shelves", "dresser", "refridgerator", "night stand",
        "otherfurniture",
    }  # fmt: skip
    merged = {"desk": "table", "door": "wall", "floor mat": "floor", "television": "TV"}
    merged |= {"blinds": "window", "curtain": "window", "shower curtain": "objects"}
    assert merged.items() <= names.items()


def test_targets() -> None:
    fine, coarse = target_table(40), target_table(13)
    assert fine.dtype == coarse.dtype == np.uint8
    assert fine[[0, 1, 40]].tolist() == [255, 0, 39]
    assert coarse[[0, 1, 4, 40]].tolist() == [255, 11, 0, 6]
    assert (coarse[1:] < 13).all()


def test_names_are_those_published(data_root: Path) -> None:
    path = data_root / "nyu_ssc" / "ClassMapping.mat"
    if not path.is_file():
        pytest.skip("no ClassMapping.mat")
    published = scipy.io.loadmat(path)
    assert tuple(name.item() for name in published["nyu40class"].ravel()) == NYU40_NAMES
    spelt_out = {"furn": "furniture", "objs": "objects"}
    eleven = [name.item() for name in published["elevenClass"].ravel()]
    assert ("empty", *(spelt_out.get(name, name) for name in eleven)) == SSC_NAMES
