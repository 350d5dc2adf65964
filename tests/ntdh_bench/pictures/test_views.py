from __future__ import annotations

import numpy as np
import pytest
import torch

from ntdh_bench.pictures.views import labels, views


@pytest.mark.parametrize(
    ("shape", "seen", "kind"),
    [
        ((3, 50), (3, 1, 50), np.float32),  # vectors
        ((3, 1000), (3, 1, 250), np.float32),
        ((3, 60, 6), (3, 6, 60), np.float32),  # series, time first
        ((3, 6, 60), (3, 6, 60), np.float32),
        ((3, 40, 256), (3, 40, 256), np.uint8),  # a spectrogram
        ((3, 1, 28, 28), (3, 28, 28), np.uint8),
        ((3, 3, 240, 500), (3, 120, 250, 3), np.uint8),
        ((3, 5, 64, 192), (3, 64, 768), np.uint8),  # channels that are no colours
        ((3, 12, 30, 40), (3, 30, 160), np.uint8),  # lips: frames
        ((3, 8, 3, 30, 40), (3, 30, 160, 3), np.uint8),  # video
        ((3, 3, 8, 30, 40), (3, 30, 160, 3), np.uint8),
    ],
)
def test_every_kind_of_input_is_seen(
    shape: tuple[int, ...], seen: tuple[int, ...], kind: type
) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = views(values, "teacher")["teacher"]
    assert found.shape == seen
    assert found.dtype == kind


def test_inputs_have_names_and_positions_are_none() -> None:
    inputs = {"image": torch.rand(2, 1, 8, 8), "position": torch.zeros(2, 8, 8, dtype=torch.int64)}
    assert views(inputs, "student").keys() == {"student.image"}


def test_an_image_uses_its_range_and_outliers_do_not_darken_it() -> None:
    image = torch.linspace(0, 1, 400).view(1, 1, 20, 20)
    image[0, 0, 0, 0] = 1e6
    image[0, 0, 0, 1] = float("nan")
    found = views(image, "x")["x"]
    assert found.min() == 0
    assert np.median(found) == pytest.approx(127, abs=3)


def test_labels_that_do_not_count_are_marked_and_maps_are_small() -> None:
    target = torch.arange(4).repeat_interleave(100).repeat(400, 1).unsqueeze(0)
    ignored = target == 3
    found = labels(target, ignored)
    assert found.shape == (1, 200, 200)
    assert found.dtype == np.int16
    assert set(np.unique(found)) == {-1, 0, 1, 2}


def test_volumes_are_seen_from_the_end_of_their_shortest_side() -> None:
    volume = torch.zeros(1, 5, 3, 4, dtype=torch.int64)
    volume[0, 1, 0, 2] = 7  # below
    volume[0, 1, 2, 2] = 8  # above
    volume[0, 2, 0, 0] = 7
    ignored = torch.zeros_like(volume, dtype=torch.bool)
    ignored[0, 4] = True
    found = labels(volume, ignored)[0]
    assert found.shape == (5, 4)
    assert found[1, 2] == 8
    assert found[2, 0] == 7
    assert found[0, 0] == 0
    assert (found[4] == -1).all()
