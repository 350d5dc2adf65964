"""BDGP: images of gene expression in fly embryos and words that describe them, five stages.

Published layout: one ``BDGP.mat`` with a matrix of 1,750 visual words a sample (Cai et al., Joint
stage recognition and anatomical annotation of Drosophila gene expression patterns, Bioinformatics
2012), one of 79 words, 0 or 1, and the labels. Copies in circulation name the variables ``X1``,
``X2``, ``Y`` or put the matrices into a cell array, samples as rows or as columns: they are told by
their sides. No original file was at hand. There is no published split: 30 % of each class are drawn
for testing, always the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.files.mat5 import read_mat5_arrays

from .arrays import PairedArrays
from .layouts import Floats, classes_of, drawn_split, latent, measured, shown
from .published import published_set

_FILE = "BDGP.mat"
_VISUAL, _WORDS, _CLASSES = 1750, 79, 5
_MAX_BYTES = 1 << 26  # 2,500 samples are 35 MB
_REMEDY = "expected BDGP.mat with matrices of 1,750 and of 79 values a sample, and labels"


def read(folder: Path) -> PairedArrays:
    """Read ``BDGP.mat``; rows of visual words are scaled to length 1.

    Raises:
        FileError: the file is missing or damaged, or lacks a matrix.
    """
    path = folder / _FILE
    found = read_mat5_arrays(path, _MAX_BYTES, _REMEDY)
    visual = _by_side(path, found, _VISUAL)
    text = _by_side(path, found, _WORDS)
    labels = next((a for a in found if a.size == len(visual) == max(a.shape)), None)
    if len(text) != len(visual) or labels is None:
        raise FileError(
            f"{path}: {len(visual)} rows of visual words, {len(text)} of text, and "
            f"{'no' if labels is None else 'as many'} labels; {_REMEDY}"
        )
    target = classes_of(path, labels, _CLASSES, _REMEDY)
    arrays = {"visual": _scaled(visual), "text": text.astype(np.float32)}
    return PairedArrays(arrays, target, drawn_split(target))


def _by_side(path: Path, found: list[NDArray[Any]], side: int) -> Floats:
    """Return the first matrix that has a side of this length, as (N, side)."""
    for array in found:
        if array.ndim == 2 and side in array.shape and array.size > side:
            matrix = array if array.shape[1] == side else array.T
            return measured(path, matrix, _REMEDY)
    raise FileError(f"{path}: no matrix of {side:,} values a sample; {_REMEDY}")


def _scaled(counts: Floats) -> NDArray[np.float32]:
    """Return rows of length 1; those that are so already are left to the bit, zeros as well."""
    length = np.linalg.norm(counts, axis=1, keepdims=True)
    length[(np.abs(length - 1) < 1e-6) | (length == 0)] = 1
    return np.asarray((counts / length).astype(np.float32))


def write_simulated(folder: Path, seed: int) -> None:
    """Write a ``BDGP.mat`` of 500 samples, a fifth of each class."""
    from scipy.io import savemat

    random = np.random.default_rng(seed)
    target = np.repeat(np.arange(_CLASSES), 100)
    hidden = latent(target, 6, 0.9, seed)
    rates = np.exp(shown(hidden, (_VISUAL,), 1.0, seed + 1))
    visual = random.poisson(300 * rates / rates.sum(1, keepdims=True)).astype(np.float64)
    words = shown(hidden, (_WORDS,), 1.0, seed + 2) > 1.5
    folder.mkdir(parents=True, exist_ok=True)
    savemat(
        folder / _FILE,
        {"X1": visual, "X2": words.astype(np.float64), "Y": target[None].astype(np.float64)},
        do_compression=True,
    )


BDGP = published_set(
    name="bdgp",
    title="gene expression: images and words",
    modalities=("visual", "text"),
    class_names=tuple(f"stage {number}" for number in range(1, _CLASSES + 1)),
    samples=2500,
    licence="none stated (Berkeley Drosophila Genome Project; Cai et al. 2012)",
    how_to_get="BDGP.mat of github scutbioinformatics/CELT",
    read=read,
    write=write_simulated,
    page_urls=("https://github.com/scutbioinformatics/CELT",),
)
