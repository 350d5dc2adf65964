from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from ntdh_bench.datamodules import RAVDESSDataModule
from ntdh_bench.datamodules.catalog import RAVDESS
from ntdh_bench.datamodules.ravdess.prepare import prepare
from ntdh_bench.datamodules.ravdess.settings import DEFAULTS, Preparation
from ntdh_bench.errors import UserError

NAMES = [field.name for field in fields(Preparation)]


def test_runs_and_data_prepare_have_the_same_defaults() -> None:
    flags = {option.argument: option.default for option in RAVDESS.options}
    arguments = inspect.signature(RAVDESSDataModule).parameters
    for name in NAMES:
        assert flags[name] == arguments[name].default == getattr(DEFAULTS, name)
    assert DEFAULTS.flags() == ""
    assert Preparation(frames=2, songs=True).flags() == " --data.songs true --data.frames 2"


@pytest.mark.parametrize(
    ("name", "value"),
    [("frames", 65), ("image_height", 27), ("image_height", 1081), ("image_width", 55),
     ("image_width", 1921), ("jobs", 0), ("backend", "numpy")],
)  # fmt: skip
def test_what_no_run_could_use_is_not_prepared(name: str, value: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^--{name} is '?{value}"):
        list(prepare(tmp_path, tmp_path, **{name: value}))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"^data\.{name} is '?{value}"):
        RAVDESSDataModule(**{name: value})  # type: ignore[arg-type]
