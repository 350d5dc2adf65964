"""What each exhibit shows: its tables and drawings, one set for every protocol and source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ntdh_bench.cache import digest
from ntdh_bench.records.columns import Row
from ntdh_bench.report import evidence, figures, wording
from ntdh_bench.report.cells import MixedRuns, select
from ntdh_bench.report.evidence import Evidence
from ntdh_bench.report.layouts import panel, panel_table
from ntdh_bench.report.papers import Exhibit, Paper, unlisted
from ntdh_bench.report.tables import Table

# Maps of masks, with the letters that tables have for them; other maps are of samples.
_MASKS = {
    "most_divergent": "T, most divergent",
    "random": "R, random",
    "least_divergent": "F, least divergent",
}


def stem_of(name: str, protocol: str = "", source: str = "") -> str:
    """Return the stem of an exhibit's files: no two share one, whatever their names hold."""
    stem = "-".join(filter(None, (name, protocol, source)))
    plain = re.sub(r"^\W|[^\w.-]", "_", stem)
    own = plain == stem and "-" not in protocol  # "a-b", "c" must not be "a", "b-c"
    return stem if own else f"{plain}-{digest([name, protocol])[:8]}"


@dataclass(frozen=True)
class Variant:
    """An exhibit under one protocol, or under all of them together, from one source.

    Attributes:
        stem: of its files.
        protocol: its name; empty for all of them.
        source: of the data.
        tables: their numbers.
        drawings: SVG elements.
        rows: the runs behind them.
        notes: what they are and can tell, a paragraph each.
    """

    stem: str
    protocol: str
    source: str
    tables: list[Table]
    drawings: list[str]
    rows: list[Row]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Content:
    """An exhibit and what there is of it.

    Attributes:
        exhibit: what it is.
        variants: real data first; of a source, that of all protocols first, if there is one.
        blank: its tables of no rows, where nothing was run.
        paper: name of the paper it is of; None: an experiment that no paper has an exhibit for.
    """

    exhibit: Exhibit
    variants: list[Variant]
    blank: list[Table]
    paper: str | None


def contents(
    found: Evidence, papers: Mapping[str, Paper], titles: Mapping[str, str]
) -> list[Content]:
    """Return the exhibits of all papers, in their order, and then other experiments.

    Args:
        found: the rows.
        papers: by name.
        titles: of experiments, by name.
    """
    exhibits = [(e, name) for name, paper in papers.items() for e in paper.exhibits]
    known = {name for exhibit, _ in exhibits for name in (exhibit.experiment, exhibit.also)}
    homes = {row["part_of"]: None for row in found.all_rows}
    others = [unlisted(name, titles.get(name, name)) for name in homes if name not in known]
    shown = [*exhibits, *((exhibit, None) for exhibit in others)]
    return [_content(exhibit, paper, found) for exhibit, paper in shown]


def _content(exhibit: Exhibit, paper: str | None, found: Evidence) -> Content:
    rows = _rows(exhibit, found)
    settings = {(row["source"], row["protocol"]) for row in rows}
    every = {(source, "") for source, _ in settings} if exhibit.across else set()
    variants = []
    for source, protocol in sorted(every | settings):
        part = select(rows, {"source": source, **({"protocol": protocol} if protocol else {})})
        make = _variant if protocol else _across
        try:
            variants += make(exhibit, found, source, protocol, part)
        except MixedRuns as error:
            where = wording.where(protocol)
            told = f"{exhibit.name}, {where}, {source} data: {error}: left out"
            found.problems.append(told)
            found.conflicts.append(told)
    blank = exhibit.table([]) if exhibit.table and not variants else []
    return Content(exhibit, variants, blank, paper)


def _rows(exhibit: Exhibit, found: Evidence) -> list[Row]:
    if exhibit.experiment is not None:
        rows = select(found.all_rows, {"part_of": exhibit.experiment})
        return rows + [row for row in found.rows.get(exhibit.also or "", ()) if row["arm"] != "kd"]
    having = [rows for rows in found.rows.values() if select(rows, exhibit.having)]
    unique = {(row["run"], row["protocol"]): row for rows in having for row in rows}
    return select(unique.values(), exhibit.keep)


def _across(
    exhibit: Exhibit, found: Evidence, source: str, protocol: str, rows: list[Row]
) -> list[Variant]:
    """Return what an exhibit shows of all protocols together, if it does."""
    stem = stem_of(exhibit.name, protocol, source)
    shown = exhibit.across(rows, stem) if exhibit.across else None
    if shown is None:
        return []
    return [Variant(stem, protocol, source, shown.tables, shown.drawings, rows, shown.notes)]


def _variant(
    exhibit: Exhibit, found: Evidence, source: str, protocol: str, rows: list[Row]
) -> list[Variant]:
    stem = stem_of(exhibit.name, protocol, source)
    tables = exhibit.table(rows) if exhibit.table else []
    if exhibit.details == "maps":
        drawings = _maps(stem, exhibit, found, rows)
        return [Variant(stem, protocol, source, tables, drawings, rows)]
    shown = rows
    if exhibit.details == "curves" and exhibit.experiment:
        shown = evidence.curves(found.results, exhibit.experiment, rows)
    specs = exhibit.panels(rows) if callable(exhibit.panels) else exhibit.panels
    panels = [drawn for spec in specs if (drawn := panel(spec, shown))]
    tables = tables if exhibit.table else [panel_table(drawn) for drawn in panels]
    drawings = [figures.draw_panel(drawn, f"{stem}-{i}") for i, drawn in enumerate(panels)]
    return [Variant(stem, protocol, source, tables, drawings, rows)]


# -- heat maps -----------------------------------------------------------------------------------


def _maps(stem: str, exhibit: Exhibit, found: Evidence, rows: Sequence[Row]) -> list[str]:
    """Return drawings of each layer's maps: those of masks as one, others one for every sample."""
    by_layer = evidence.maps(found.results, exhibit.experiment or "", rows)
    groups = [
        [(_map_title(layer, name), np.mean(list(maps[name].values()), 0)) for name in names]
        for layer, maps in by_layer.items()
        for names in _map_groups(maps)
    ]
    return [figures.draw_maps(maps, f"{stem}-{index}") for index, maps in enumerate(groups)]


def _map_groups(maps: Iterable[str]) -> list[list[str]]:
    """Return which maps are drawn side by side: those of masks, and those of each sample."""
    groups: dict[str, list[str]] = {"": [name for name in _MASKS if name in maps]}
    for name in maps:
        if name not in _MASKS:
            groups.setdefault(name.partition(",")[0], []).append(name)
    return [names for names in groups.values() if names]


def _map_title(layer: str, name: str) -> str:
    if name not in _MASKS:
        return name
    return f"{_MASKS[name]}\n{layer}" if layer else _MASKS[name]
