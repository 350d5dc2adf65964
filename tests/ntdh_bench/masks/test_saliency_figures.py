from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from ntdh_bench.batch import PairedBatch
from ntdh_bench.errors import UserError
from ntdh_bench.frozen_teacher import FrozenTeacher
from ntdh_bench.masks import FeatureMask, Saliency, plots, saliency_report
from ntdh_bench.masks.plots import heatmap_figure, saliency_figure, save_figure
from tests.helpers import held

IMAGES = ["removed_pixels", "input_gradients"]


class Data:
    num_classes, ignore_index, num_train, batch_size = 3, 255, 24, 12
    source, fingerprint = "simulated", "data"

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def batches(
        self, split: str, batch_size: int | None = None, epoch: int = 0
    ) -> Iterator[PairedBatch]:
        stream = torch.Generator().manual_seed(0)
        for _ in range(2):
            yield PairedBatch(
                teacher=torch.randn(12, *self.shape, generator=stream),
                student=torch.randn(12, *self.shape, generator=stream),
                target=torch.randint(3, (12,), generator=stream),
                index=torch.arange(12),
            )


def pair(seed: int = 0) -> FrozenTeacher:
    def network() -> nn.Sequential:
        chain = nn.Sequential(nn.Flatten())
        chain.add_module("hidden1", nn.Sequential(nn.Linear(20, 8), nn.ReLU()))
        chain.add_module("head", nn.Linear(8, 3))
        return chain

    torch.manual_seed(seed)
    return held(network(), network())


def report(mask: FeatureMask, out: Path, *shape: int) -> list[Path]:
    return saliency_report(pair(), cast(Any, Data(*shape)), mask, out)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("layer", "width", "ratio"), [("hidden1", 8, 0.0), ("hidden1", 8, 1.0), ("input", 20, 0.25)]
)
def test_writes_numbers_and_figures(layer: str, width: int, ratio: float, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mask = FeatureMask(ratio, layer=layer, permutations=1)
    paths = report(mask, out, 1, 5, 4)
    names = {f"{name}.{kind}" for name in ["saliency", *IMAGES] for kind in ("png", "svg")}
    assert {path.name for path in paths} == names | {"saliency.npz", "heatmaps.npz"}
    assert {path.name for path in out.iterdir()} == {path.name for path in paths}
    for path in paths:
        start = path.read_bytes()[:8]
        assert start.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".npz": b"PK"}[path.suffix])
    saliency = Saliency.load(out / "saliency.npz")
    assert saliency.values.shape == (width,)

    with np.load(out / "heatmaps.npz", allow_pickle=False) as file:
        assert file["removed_pixels"].shape == (3, 4, 5, 4)
        assert file["input_gradients"].shape == (4, 4, 5, 4)
        assert file["masks"].tolist() == ["most_divergent", "random", "least_divergent"]
        assert (file["keep"].sum(1) == width - round(ratio * width)).all()
        assert np.isfinite(file["removed_pixels"]).all()


def test_data_that_are_no_images_get_no_heat_maps(tmp_path: Path) -> None:
    paths = report(FeatureMask(0.5, "random", permutations=1), tmp_path, 20)
    assert [path.name for path in paths] == ["saliency.npz", "saliency.png", "saliency.svg"]


def test_repeats_byte_by_byte_and_leaves_the_teacher_as_it_was(tmp_path: Path) -> None:
    teacher = pair()
    teacher.network.train()
    data = cast(Any, Data(1, 5, 4))
    contents = []
    for name in ("a", "b"):
        paths = saliency_report(teacher, data, FeatureMask(0.5), tmp_path / name)
        contents.append([path.read_bytes() for path in paths if path.suffix != ".npz"])
    assert contents[0] == contents[1]
    for name in ["saliency", *IMAGES]:
        assert "simulated data" in (tmp_path / "a" / f"{name}.svg").read_text()
    assert all(part.training for part in teacher.network.modules())
    assert not teacher.network.get_submodule("hidden1")._forward_hooks


def test_uses_the_saliency_of_a_prepared_mask(tmp_path: Path) -> None:
    teacher, data = pair(), cast(Any, Data(20))
    mask = FeatureMask(0.5)
    mask.prepare(teacher, data)
    teacher.hold(teacher.network)
    saliency_report(teacher, data, mask, tmp_path)
    with pytest.raises(UserError, match="joint"):
        saliency_report(teacher, data, FeatureMask(0.25), tmp_path)


def test_flat_values_can_be_plotted(tmp_path: Path) -> None:
    zeros = np.zeros(12)
    paths = save_figure(saliency_figure(zeros, 3, "t", (3, 4)), tmp_path, "a")
    maps = np.zeros((1, 2, 3, 4))
    for per_row in (False, True):
        figure = heatmap_figure(maps, ["r"], ["c", "d"], "t", "l", scale_per_row=per_row)
        paths += save_figure(figure, tmp_path, f"b{per_row}")
    assert all(path.stat().st_size > 1000 for path in paths)


def test_the_figure_says_which_score_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    draw = plots.saliency_figure
    monkeypatch.setattr(plots, "saliency_figure", lambda *given: shown.append(draw(*given)))
    monkeypatch.setattr(plots, "save_figure", lambda *_: [])
    for score in ("ncjsd", "mse"):
        report(FeatureMask(0.25, score=cast(Any, score)), tmp_path / score, 20)
    labels = [figure.axes[0].get_ylabel() for figure in shown]
    assert labels == ["saliency (nats)", "saliency (squared logits)"]
    titles = [figure.get_suptitle() for figure in shown]
    assert titles[0].startswith("Saliency of hidden1: NCJSD 0.")
    assert titles[1].startswith("Saliency of hidden1: mean squared difference of logits ")
