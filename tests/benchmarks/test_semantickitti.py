"""SemanticKITTI: projecting a scan, a view against PMF's steps, the cache against the files."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import transforms

from ntdh_bench.datamodules.paired import Request
from ntdh_bench.datamodules.semantickitti.datamodule import (
    SemanticKITTIDataModule,
    StreetViews,
    Window,
    cut_image,
    cut_points,
    jittered,
)
from ntdh_bench.datamodules.semantickitti.layout import Frame, frames, sequences_folder
from ntdh_bench.datamodules.semantickitti.projection import (
    CHANNEL_MEAN,
    CHANNEL_STD,
    channels,
    project,
)
from ntdh_bench.datamodules.semantickitti.reader import (
    read_calibration,
    read_classes,
    read_image,
    read_scan,
)
from ntdh_bench.datamodules.semantickitti.simulate import write_simulated
from ntdh_bench.datamodules.semantickitti.store import Seen

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

CROP = (256, 1024)
FRAMES = 8


class Sample(NamedTuple):
    """A frame that has been read."""

    points: NDArray[np.float32]
    classes: NDArray[np.uint8]
    image: NDArray[np.uint8]
    matrix: NDArray[np.float64]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("semantickitti")


@pytest.fixture(scope="module")
def listed(cache: Path) -> list[Frame]:
    write_simulated(cache, FRAMES)
    return frames(sequences_folder(cache) / "00")


def read(frame: Frame) -> Sample:
    points = read_scan(frame.scan)
    return Sample(
        points,
        read_classes(frame.labels, len(points)),
        read_image(frame.image),
        read_calibration(frame.scan.parents[1] / "calib.txt"),
    )


def best(
    *runs: Callable[[], object], rounds: int = 15, clock: Callable[[], float] = time.thread_time
) -> list[float]:
    """Milliseconds of each run, the best of some rounds in turns.

    The processor time of the only thread: its wall time, were nothing else on the machine.
    """
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for times, run in zip(taken, runs, strict=True):
            start = clock()
            run()
            times.append(1000 * (clock() - start))
    return [min(times) for times in taken]


def test_projection(listed: list[Frame]) -> None:
    sample = read(listed[0])
    scan = np.resize(sample.points, (120_000, 4))
    points, matrix = torch.from_numpy(scan), torch.from_numpy(sample.matrix)
    size = sample.image.shape[:2]
    view = project(points, matrix, size)
    (taken,) = best(lambda: project(points, matrix, size))
    print(
        f"\n120,000 points, {len(view.point):,} in view, one core: pixels and z-buffer "
        f"{taken:.1f} ms"
    )
    assert taken < 8


def pmf_steps(sample: Sample, *, turn: bool) -> tuple[Tensor, Tensor]:
    """A training sample by PMF's steps: plane by plane, stacked, then torchvision on the stack."""
    jitter = transforms.ColorJitter(0.4, 0.4, 0.4)
    image = np.asarray(jitter(Image.fromarray(sample.image)), dtype=np.float32) / 255
    height, width, _ = image.shape
    front = sample.points[:, 0] > 0.5
    points, classes = sample.points[front], sample.classes[front]
    homogeneous = np.hstack([points[:, :3], np.ones((len(points), 1))])
    camera = (sample.matrix @ homogeneous.T).T
    column, row = camera[:, 0] / camera[:, 2], camera[:, 1] / camera[:, 2]
    inside = (column > 0) & (column < width) & (row > 0) & (row < height)
    points, classes = points[inside], classes[inside]
    place = row[inside].astype(np.int32), column[inside].astype(np.int32)
    values = [np.linalg.norm(points[:, :3], axis=1), *points.T]
    planes = []
    for value in (*values, np.ones(len(points)), classes):
        plane = np.zeros((height, width), dtype=np.float32)
        plane[place] = value
        planes.append(plane)
    stack = np.stack([*planes, *np.moveaxis(image, 2, 0)])
    # Half of PMF's 15 degrees: large angles take longer, so the best time of random ones would be
    # that of the smallest.
    rotation = [transforms.RandomRotation((7.5, 7.5))] if turn else []
    augment = transforms.Compose(
        [transforms.RandomHorizontalFlip(), *rotation, transforms.RandomCrop(CROP)]
    )
    tensor = augment(torch.from_numpy(stack))
    mean, spread = torch.tensor(CHANNEL_MEAN), torch.tensor(CHANNEL_STD)
    tensor[:5] = (tensor[:5] - mean[:, None, None]) / spread[:, None, None] * tensor[5]
    return tensor, tensor[6].long()


def our_steps(sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
    """The same without the cache: project, mirror, crop, jitter."""
    size = sample.image.shape[:2]
    points = torch.from_numpy(sample.points)
    view = project(points, torch.from_numpy(sample.matrix), size)
    shown = view.point[view.nearest].numpy()
    seen = Seen(view.pixel[view.nearest].int().numpy(), sample.points[shown], sample.classes[shown])
    window = Window(50, 100, *CROP, flipped=True)
    inside = (seen.pixel >= 50 * size[1]) & (seen.pixel < (50 + CROP[0]) * size[1])
    cloud = cut_points(Seen(*(values[inside] for values in seen)), window, size[1], CROP[1])
    lidar, target = torch.zeros(5, CROP[0] * CROP[1]), torch.full((CROP[0] * CROP[1],), 255)
    lidar[:, cloud["pixel"]] = channels(cloud["points"])
    target[cloud["pixel"]] = cloud["target"]
    image = cut_image(sample.image.transpose(2, 0, 1), window).float().div_(255)
    return jittered(image, 1.1, 0.9, 1.2), lidar.view(5, *CROP), target.view(CROP)


def loaded(cache: Path, **options: Any) -> StreetViews:
    data = SemanticKITTIDataModule(
        source="simulated", simulated_frames=FRAMES, cache_dir=str(cache), **options
    )
    data.setup()
    views = data.splits["train"]
    assert isinstance(views, StreetViews)
    return views


def test_training_view(cache: Path, listed: list[Frame]) -> None:
    sample = read(listed[0])
    views = loaded(cache)
    request = Request(0, torch.tensor([0]))
    with_turn, without_turn, ours, cached = best(
        lambda: pmf_steps(sample, turn=True),
        lambda: pmf_steps(sample, turn=False),
        lambda: our_steps(sample),
        lambda: views[request],
    )
    print(
        f"\na training view from a decoded image, one core: PMF's steps {with_turn:.0f} ms "
        f"({without_turn:.0f} ms without its rotation); ours {ours:.1f} ms "
        f"({with_turn / ours:.1f}x, {without_turn / ours:.1f}x); from the cache {cached:.1f} ms "
        f"({with_turn / cached:.1f}x, {without_turn / cached:.1f}x)"
    )
    assert with_turn > 5 * ours
    assert with_turn > 5 * cached


def test_loader_against_files(cache: Path, listed: list[Frame]) -> None:
    views = loaded(cache)
    request = Request(0, torch.arange(4))
    from_cache, from_files = best(
        lambda: views[request], lambda: [our_steps(read(frame)) for frame in listed[:4]]
    )
    print(
        f"\nloader, batches of 4, one core: {4000 / from_cache:.0f} frames/s from the cache, "
        f"{4000 / from_files:.0f} from the files: {from_files / from_cache:.1f}x"
    )
    assert from_files > 3 * from_cache
