"""The data catalogue: what ``ntdh-bench data`` shows and calls. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ntdh_bench.datasets import DatasetInfo, FileCheck


def _prepare_mnist(root: Path, from_folder: Path | None) -> None:
    from .mnist.prepare import prepare

    prepare(root, from_folder)


def _verify_mnist(root: Path) -> list[FileCheck]:
    from .mnist.prepare import verify

    return verify(root)


def _sample_mnist(root: Path, seed: int) -> None:
    from .mnist.simulate import write_simulated

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
