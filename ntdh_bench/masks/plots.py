"""Figures of the masks: the saliency of features, the heat maps of Fig. 10, Fig. 12's divergence.

They take arrays, never touch pyplot's global state, and import matplotlib only when called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ntdh_bench.cache import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

_MOST, _LEAST, _KEPT = "#b2182b", "#2166ac", "#8c8c8c"


def saliency_figure(
    values: Array,
    removed: int,
    title: str,
    image_shape: tuple[int, int] | None = None,
    unit: str = "nats",
) -> Figure:
    """Plot the signed saliency: by rank on the left; by feature, or as an image, on the right.

    Args:
        values: ``(D,)``.
        removed: how many features a mask removes; marked at both ends of the ranking.
        title: one line.
        image_shape: height and width if the features are the pixels of an image.
        unit: of the values.
    """
    figure = _new_figure(9.0, 3.4)
    by_rank, by_feature = figure.subplots(1, 2)
    order = np.argsort(-values, kind="stable")
    colours = np.full(len(values), _KEPT, dtype=object)
    colours[order[len(values) - removed :]] = _LEAST
    colours[order[:removed]] = _MOST
    by_rank.bar(np.arange(len(values)), values[order], 1.0, color=list(colours[order]))
    label = f"saliency ({unit})"
    by_rank.set(xlabel="rank", ylabel=label)
    for colour, end in ((_MOST, "removed as most divergent"), (_LEAST, "as least divergent")):
        by_rank.bar(0, 0, color=colour, label=end)
    by_rank.legend(frameon=False, fontsize=8)
    if image_shape is None:
        by_feature.bar(np.arange(len(values)), values, 1.0, color=list(colours))
        by_feature.set(xlabel="feature", ylabel=label)
        by_feature.axhline(0, color="black", linewidth=0.5)
    else:
        limit = float(np.abs(values).max()) or 1.0
        picture = by_feature.imshow(
            values.reshape(image_shape), cmap="RdBu_r", vmin=-limit, vmax=limit
        )
        by_feature.set(xticks=[], yticks=[], xlabel="pixels")
        figure.colorbar(picture, ax=by_feature, label=label)
    by_rank.axhline(0, color="black", linewidth=0.5)
    figure.suptitle(title, fontsize=10)
    return figure


def heatmap_figure(
    maps: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    label: str,
    scale_per_row: bool = False,
) -> Figure:
    """Plot maps ``(rows, columns, H, W)`` on colour scales that start at 0 (Fig. 10).

    Args:
        maps: non-negative.
        rows: one name per row.
        columns: one name per column.
        title: one line.
        label: what the colours mean.
        scale_per_row: give each row its own scale, where patterns count more than sizes.
    """
    figure = _new_figure(1.0 * len(columns) + 2.2, 1.0 * len(rows) + 0.9)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    scales = [_top(row) for row in maps] if scale_per_row else [_top(maps)] * len(rows)
    for row, row_axes in enumerate(axes):
        for column, axis in enumerate(row_axes):
            picture = axis.imshow(maps[row, column], cmap="magma", vmin=0, vmax=scales[row])
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(columns[column], fontsize=9)
        row_axes[0].set_ylabel(rows[row], rotation=0, ha="right", va="center", fontsize=9)
        if scale_per_row:
            figure.colorbar(picture, ax=row_axes, extend="max")
    if not scale_per_row:
        figure.colorbar(picture, ax=axes, label=label, shrink=0.8, extend="max")
        label = ""
    figure.suptitle(f"{title}: {label}" if label else title, fontsize=10)
    return figure


def divergence_figure(
    image: Array,
    seen: npt.NDArray[np.bool_],
    ncjsd: Array,
    dropped: npt.NDArray[np.bool_],
    title: str,
    dropped_label: str,
) -> Figure:
    """Plot the NCJSD of pixels and those that a mask drops, on the image, a row a sample (Fig. 12).

    Args:
        image: ``(B, H, W)`` in [0, 1].
        seen: ``(B, H, W)``, pixels that have a value.
        ncjsd: ``(B, H, W)`` in nats.
        dropped: ``(B, H, W)``.
        title: one line.
        dropped_label: what the mask drops.
    """
    count, height, width = image.shape
    figure = _new_figure(11.0, 0.9 + count * (5.2 * height / width + 0.1))
    axes = figure.subplots(count, 2, squeeze=False)
    top = _top(ncjsd[seen]) if seen.any() else 1.0
    dot = (5.2 * 72 / width * 2) ** 2  # points squared: two pixels wide
    for sample, (values_axis, dropped_axis) in enumerate(axes):
        for axis in (values_axis, dropped_axis):
            axis.imshow(image[sample], cmap="gray", vmin=0, vmax=1.4, interpolation="bilinear")
            axis.set(xticks=[], yticks=[])
        y, x = np.nonzero(seen[sample])
        order = np.argsort(ncjsd[sample, y, x], kind="stable")  # the largest on top
        y, x = y[order], x[order]
        dots: dict[str, Any] = {"s": dot, "linewidths": 0, "rasterized": True}
        shown = values_axis.scatter(
            x, y, c=ncjsd[sample, y, x], cmap="inferno", vmin=0, vmax=top, **dots
        )
        y, x = np.nonzero(dropped[sample])
        dropped_axis.scatter(x, y, c=_MOST, **dots)
    axes[0, 0].set_title("NCJSD of each labelled pixel", fontsize=9)
    axes[0, 1].set_title(dropped_label, fontsize=9)
    figure.colorbar(shown, ax=axes[:, 0], label="nats", extend="max", shrink=0.8)
    figure.suptitle(title, fontsize=10)
    return figure


def _top(maps: Array) -> float:
    """Return the value shown brightest; a few far higher ones would leave the rest dark."""
    return float(np.quantile(maps, 0.999)) or 1.0


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name.png`` and ``name.svg`` whole; the same figure gives the same bytes.

    Raises:
        UserError: the folder cannot be written.
    """
    from matplotlib import rc_context

    paths = []
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        path = folder / f"{name}.{kind}"
        with write_atomic(path) as temporary, rc_context({"svg.hashsalt": name}):
            figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)
        paths.append(path)
    return paths


def save_arrays(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> Path:
    """Write arrays to an ``.npz`` file, whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    with write_atomic(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
    return path


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
