"""An example of a set of pairs, always simulated: two vectors that show one thing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from .arrays import PairedArrays, read_arrays, write_arrays
from .published import published_set, verify_file

_FILE = "pairs.npz"
_CLASSES, _LATENT, _GROUPS, _PER_GROUP = 5, 8, 10, 60
_WIDTHS = {"first": 24, "second": 16}


def read(folder: Path) -> PairedArrays:
    """Read the arrays that :func:`write` wrote."""
    return read_arrays(folder / _FILE)


def write(folder: Path, seed: int) -> None:
    """Write two noisy linear views of points around the centres of five classes, in ten groups."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(_GROUPS), _PER_GROUP)
    target = rng.permutation(np.resize(np.arange(_CLASSES), len(group)))
    centres = rng.normal(size=(_CLASSES, _LATENT))
    hidden = centres[target] + 0.6 * rng.normal(size=(len(group), _LATENT))
    views = {
        name: _view(hidden, width, group, rng).astype(np.float32) for name, width in _WIDTHS.items()
    }
    write_arrays(folder / _FILE, PairedArrays(views, target, group=group))


def _view(
    hidden: np.ndarray, width: int, group: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return a random projection of what is hidden, with noise and an offset of each group."""
    mixed = hidden @ rng.normal(size=(_LATENT, width))
    offset = rng.normal(size=(_GROUPS, width))
    noise = rng.normal(size=mixed.shape)
    return np.asarray(mixed + offset[group] + 2.0 * noise)


PAIRS = replace(
    published_set(
        name="pairs",
        title="a .npz of your own",
        modalities=tuple(_WIDTHS),
        class_names=tuple(map(str, range(_CLASSES))),
        licence="none needed",
        how_to_get="",
        read=read,
        write=write,
    ),
    folders=(),
    how_to_get="name a .npz of your own: --data.file FILE",
    prepare=None,
    verify=verify_file,
)
