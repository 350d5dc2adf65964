"""The data catalogue: what ``ntdh-bench data`` shows and calls. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ntdh_bench.datasets import DatasetInfo, FileCheck, Option


def _prepare_mnist(root: Path, from_folder: Path | None) -> Iterable[str]:
    from .mnist.prepare import prepare

    prepare(root, from_folder)
    return [f"complete in {root}"]


def _verify_mnist(root: Path) -> list[FileCheck]:
    from .mnist.prepare import verify

    return verify(root)


def _sample_mnist(root: Path, seed: int) -> None:
    from .mnist.simulate import write_simulated

    write_simulated(root, seed=seed)


def _prepare_ravdess(root: Path, from_folder: Path | None, **options: Any) -> Iterable[str]:
    from .ravdess.prepare import prepare

    return prepare(root, from_folder, **options)


def _verify_ravdess(root: Path) -> list[FileCheck]:
    from .ravdess.prepare import verify

    return verify(root)


def _sample_ravdess(root: Path, seed: int) -> None:
    from .ravdess.simulate import write_simulated

    write_simulated(root, seed=seed)


def _prepare_semantickitti(root: Path, from_folder: Path | None) -> Iterable[str]:
    from .semantickitti.prepare import prepare

    prepare(root, from_folder)
    return [f"complete in {root}, projected into the cache"]


def _verify_semantickitti(root: Path) -> list[FileCheck]:
    from .semantickitti.prepare import verify

    return verify(root)


def _sample_semantickitti(root: Path, seed: int) -> None:
    from .semantickitti.simulate import write_simulated

    write_simulated(root, seed=seed)


SYNTHETIC = DatasetInfo(
    name="synthetic",
    title="Gaussian clusters with a chosen gap",
    modalities=("block a", "block b"),
    folders=(),
    licence="none needed",
    how_to_get="made on the fly",
)

MNIST = DatasetInfo(
    name="mnist",
    title="digits, and digits on BSDS500 photographs",
    modalities=("MNIST", "MNIST-M"),
    folders=("mnist", "bsds500"),
    licence="research data; terms of MNIST and BSDS500 at their publishers",
    how_to_get="data prepare mnist",
    prepare=_prepare_mnist,
    verify=_verify_mnist,
    sample=_sample_mnist,
)

RAVDESS = DatasetInfo(
    name="ravdess",
    title="emotional speech, and the faces that speak it",
    modalities=("speech", "faces"),
    folders=("ravdess",),
    licence="CC BY-NC-SA 4.0 (Livingstone and Russo 2018)",
    how_to_get="data prepare ravdess",
    prepare=_prepare_ravdess,
    verify=_verify_ravdess,
    sample=_sample_ravdess,
    options=(
        Option(
            "--backend", "computes the MFCCs; default: librosa", "librosa",
            choices=("librosa", "torchaudio"),
        ),
        Option("--songs", "the songs as well", False),
        Option("--frames", "video frames per clip; default: 1", 1, int),
        Option("--image_height", "of the frames, pixels; default: 256", 256, int),
        Option("--image_width", "of the frames, pixels; default: 512", 512, int),
        Option("--jobs", "threads that decode; default: one per core", None, int),
        Option("--tolerance", "damaged or misnamed files to accept; default: 0", 0, int),
    ),
)  # fmt: skip

SEMANTICKITTI = DatasetInfo(
    name="semantickitti",
    title="streets seen by camera and lidar, in one image plane",
    modalities=("camera", "lidar"),
    folders=("semantickitti",),
    licence="CC BY-NC-SA 4.0 (Behley et al. 2019), CC BY-NC-SA 3.0 (Geiger et al. 2012)",
    how_to_get="register with the publishers, then data prepare semantickitti --from <folder>",
    prepare=_prepare_semantickitti,
    verify=_verify_semantickitti,
    sample=_sample_semantickitti,
)
