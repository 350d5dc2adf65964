"""What each exhibit shows: its tables and drawings, one set for every protocol and source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ntdh_bench.paper import printed as paper
from ntdh_bench.paper.exhibits import EXHIBITS, Exhibit, unlisted
from ntdh_bench.records import Row
from ntdh_bench.report import evidence, figures
from ntdh_bench.report.evidence import Evidence, Image
from ntdh_bench.report.layouts import Panel, panel, panel_table, select
from ntdh_bench.report.statistics import mean_ci
from ntdh_bench.report.tables import RATIO, Cell, Column, Line, Table

_SHORT = {removes: short for short, removes in paper.REMOVES.items()}


@dataclass(frozen=True)
class Variant:
    """An exhibit under one protocol, from one source.

    Attributes:
        stem: of its files.
        tables: their numbers.
        drawings: SVG elements.
        rows: the runs behind them.
    """

    stem: str
    protocol: str
    source: str
    tables: list[Table]
    drawings: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class Content:
    """An exhibit and what there is of it.

    Attributes:
        exhibit: what it is.
        variants: real data first.
        blank: tables of the paper's numbers, where nothing was run.
        says: what the paper's figure says in words.
    """

    exhibit: Exhibit
    variants: list[Variant]
    blank: list[Table]
    says: str


def contents(found: Evidence, titles: dict[str, str]) -> list[Content]:
    """Return all exhibits, in the order of the paper, and then other experiments.

    Args:
        found: the rows.
        titles: of experiments, by name.
    """
    known = {name for exhibit in EXHIBITS for name in (exhibit.experiment, exhibit.also)}
    homes = {row["part_of"]: None for row in found.all_rows}
    others = [unlisted(name, titles.get(name, name)) for name in homes if name not in known]
    return [_content(exhibit, found) for exhibit in (*EXHIBITS, *others)]


def _content(exhibit: Exhibit, found: Evidence) -> Content:
    rows = _rows(exhibit, found)
    settings = sorted({(row["source"], row["protocol"]) for row in rows})
    variants = [
        _variant(
            exhibit, found, source, protocol, select(rows, {"source": source, "protocol": protocol})
        )
        for source, protocol in settings
    ]
    blank = exhibit.table([]) if exhibit.table and not variants else []
    figure = paper.figures().get(re.sub(r"(fig\d+).*", r"\1", exhibit.name))
    return Content(exhibit, variants, blank, figure.says if figure else "")


def _rows(exhibit: Exhibit, found: Evidence) -> list[Row]:
    if exhibit.experiment is not None:
        rows = select(found.all_rows, {"part_of": exhibit.experiment})
        return rows + [row for row in found.rows.get(exhibit.also or "", ()) if row["arm"] != "kd"]
    matched = [rows for rows in found.rows.values() if any(row["arm"] == "matched" for row in rows)]
    unique = {(row["run"], row["protocol"]): row for rows in matched for row in rows}
    return select(unique.values(), exhibit.keep or {})


def _variant(
    exhibit: Exhibit, found: Evidence, source: str, protocol: str, rows: list[Row]
) -> Variant:
    stem = re.sub(r"[^\w.-]", "_", f"{exhibit.name}-{protocol}-{source}")
    if exhibit.details == "maps":
        tables, drawings = _maps(stem, exhibit, found, rows)
        return Variant(stem, protocol, source, tables, drawings, rows)
    shown = rows
    if exhibit.details == "curves" and exhibit.experiment:
        shown = evidence.curves(found.results, exhibit.experiment, rows)
    panels = [drawn for spec in exhibit.panels if (drawn := panel(spec, shown))]
    tables = exhibit.table(rows) if exhibit.table else [panel_table(drawn) for drawn in panels]
    return Variant(stem, protocol, source, tables, _drawings(panels, stem), rows)


def _drawings(panels: Sequence[Panel], stem: str) -> list[str]:
    return [figures.draw_panel(drawn, f"{stem}-{index}") for index, drawn in enumerate(panels)]


# -- heat maps -----------------------------------------------------------------------------------


def _maps(
    stem: str, exhibit: Exhibit, found: Evidence, rows: Sequence[Row]
) -> tuple[list[Table], list[str]]:
    """Return drawings of each layer's maps, and how much of their heat lies in the middle.

    The maps of the masks are one drawing; others one for every sample.
    """
    by_layer = evidence.maps(found.results, exhibit.experiment or "", rows)
    groups = [
        [(_map_title(layer, name), np.mean(list(maps[name].values()), 0)) for name in names]
        for layer, maps in by_layer.items()
        for names in _map_groups(maps)
    ]
    drawings = [figures.draw_maps(maps, f"{stem}-{index}") for index, maps in enumerate(groups)]
    names = [name for name in _SHORT if any(name in maps for maps in by_layer.values())]
    lines = tuple(
        Line((layer,), tuple(_heat_in_the_middle(maps.get(name, {})) for name in names))
        for layer, maps in by_layer.items()
    )
    columns = tuple(Column(_map_title("", name)) for name in names)
    title = "Share of the heat in the middle (5/7 of width and height, where MNIST digits lie)"
    return [Table(title, ("layer",), columns, lines)] if names else [], drawings


def _map_groups(maps: Iterable[str]) -> list[list[str]]:
    """Return which maps are drawn side by side: those of masks, and those of each sample."""
    groups: dict[str, list[str]] = {"": [name for name in _SHORT if name in maps]}
    for name in maps:
        if name not in _SHORT:
            groups.setdefault(name.partition(",")[0], []).append(name)
    return [names for names in groups.values() if names]


def _map_title(layer: str, removes: str) -> str:
    if removes not in _SHORT:
        return removes
    name = f"{_SHORT[removes]}, {removes.replace('_', ' ')}"
    return f"{name}\n{layer}" if layer else name


def _heat_in_the_middle(maps: Mapping[int, Image]) -> Cell:
    return Cell(mean_ci(map(evidence.share_in_the_middle, maps.values())), RATIO)
