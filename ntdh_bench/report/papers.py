"""What a paper adds to the report: exhibits, claims and the numbers that it prints.

A paper is a :class:`Paper` that an entry point of the group ``ntdh_bench.papers`` names. YAML files
that lie in its package, such as the numbers it prints, count as inputs of what is made from it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from ntdh_bench.errors import UserError
from ntdh_bench.plugins import load, registered
from ntdh_bench.records.columns import Row
from ntdh_bench.report.cells import Where
from ntdh_bench.report.check import GROUP
from ntdh_bench.report.contrasts import BySeed, Contrast, Reduction, evaluate
from ntdh_bench.report.evidence import OfMaps
from ntdh_bench.report.layouts import Layout, PanelSpec, cell_panels, grouped
from ntdh_bench.report.overview import Overview, overview

#: Units of effects; any other text will do as well.
POINTS, NATS, PER_CENT, RHO = "accuracy points", "nats", "per cent", "rank correlation"
SLOPE = "accuracy points a standard deviation"

Values: TypeAlias = Callable[[Sequence[Row]], BySeed]

Assumption: TypeAlias = Literal["capacity", "strength", "converged"]
#: What a test must meet, of :mod:`ntdh_bench.report.gates`, whatever it compares.
ASSUMPTIONS: tuple[Assumption, ...] = ("capacity", "strength", "converged")

#: What tables of whole experiments show.
SHOWN = (
    "last_test_score", "gain", "gain_over_equal_task", "gain_over_matched",
    "last_test_teacher_score", "last_test_ncjsd", "last_test_tcjsd", "ncjsd_before", "late_gain",
)  # fmt: skip


# -- exhibits ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exhibit:
    """A table or figure of the report.

    Attributes:
        name: stem of its files, unique.
        label: its name in the paper, or ``Extra``.
        title: one line.
        experiment: whose records it shows; None: those of all experiments.
        panels: of its figure, or what makes them of rows.
        table: its tables, from rows (which may be none); by default the numbers of the panels.
        across: what is shown of all protocols together, from rows of one source and the name of
            drawings; it may be None.
        details: what it shows beside the rows: values per epoch, or heat maps.
        of_maps: columns that rows get from each of their heat maps: ``<name>_<map>``.
        also: another experiment whose runs without KD it shows.
        having: of all experiments, those that have such a row.
        keep: which rows of the experiment.
        says: what the paper says about it, if it prints no numbers.
        note: what a reader must know, plain text.
    """

    name: str
    label: str
    title: str
    experiment: str | None
    panels: Sequence[PanelSpec] | Callable[[Sequence[Row]], Sequence[PanelSpec]] = ()
    table: Layout | None = None
    across: Callable[[Sequence[Row], str], Overview | None] | None = None
    details: Literal["curves", "maps"] | None = None
    of_maps: OfMaps = field(default_factory=dict)
    also: str | None = None
    having: Where = field(default_factory=dict)
    keep: Where = field(default_factory=dict)
    says: str = ""
    note: str = ""


def unlisted(experiment: str, title: str) -> Exhibit:
    """Return the exhibit of an experiment that no paper has one for: its cells."""
    return Exhibit(
        experiment, "Experiment", title, experiment, cell_panels, grouped(*SHOWN), overview
    )


# -- claims --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """Where a claim puts an effect: between ``low`` and ``high``.

    Attributes:
        text: in words.
        refuted_above: an interval wholly above it refutes the claim; ``high`` unless given.
    """

    low: float
    high: float
    text: str
    refuted_above: float | None = None

    @property
    def ceiling(self) -> float:
        """Return what no effect may lie above."""
        return self.high if self.refuted_above is None else self.refuted_above


POSITIVE = Region(0.0, math.inf, "> 0")
NEGATIVE = Region(-math.inf, 0.0, "< 0")


def within(margin: float) -> Region:
    """Return the region of "almost unchanged"."""
    return Region(-margin, margin, f"within ±{margin:g}")


def not_above(margin: float) -> Region:
    """Return the region of "does not improve": less than a margin, and not reliably above 0."""
    return Region(-math.inf, margin, f"not > 0 (< {margin:g})", refuted_above=0.0)


class Part(NamedTuple):
    """One comparison of a claim, and how it becomes one number a seed.

    Attributes:
        name: of the part.
        values: what makes a number a seed of rows.
        contrast: whose cells it compares; empty: it looks at all rows.
    """

    name: str
    values: Values
    contrast: Contrast = ()


def part(name: str, contrast: Contrast, over: Reduction | None = None) -> Part:
    """Return the part that evaluates a contrast."""
    return Part(name, lambda rows: evaluate(contrast, rows, over), contrast)


def one(contrast: Contrast, over: Reduction | None = None) -> tuple[Part, ...]:
    """Return the only part of a simple claim."""
    return (part("", contrast, over),)


@dataclass(frozen=True)
class Claim:
    """A claim that runs can decide.

    Attributes:
        id: unique; begins with the exhibit.
        where: section, table or figure.
        statement: what the paper says, in a line.
        experiment: whose rows decide it.
        effect: what is measured, in words.
        unit: of the effect.
        region: where the claim puts it.
        parts: comparisons that must all hold.
        at_least: how many of them must, for "most"; None: all.
        note: how the claim was read.
        partial: what of the grid is missing, in words, if that lets nothing be decided.
        under: assumptions that the claim is made under, and must meet to be tested.
        moved: what must have moved for the test to say anything: contrasts of NCJSD before
            distillation, each > 0 if it moved as intended; their teachers must be undamaged.
        identity: why no run could contradict it; empty for a claim that one could.
    """

    id: str
    where: str
    statement: str
    experiment: str
    effect: str
    unit: str
    region: Region
    parts: tuple[Part, ...]
    at_least: int | None = None
    note: str = ""
    partial: Callable[[Sequence[Row]], str] = lambda rows: ""
    under: tuple[Assumption, ...] = ASSUMPTIONS
    moved: tuple[Part, ...] = ()
    identity: str = ""

    @property
    def exhibit(self) -> str:
        """Return the table, figure or equation the claim belongs to."""
        return self.id.partition(".")[0]

    @property
    def count(self) -> int:
        """Return how many parts must hold."""
        return len(self.parts) if self.at_least is None else self.at_least


class Untested(NamedTuple):
    """A claim that no run decides, and why."""

    id: str
    where: str
    statement: str
    experiment: str
    reason: str


class Hypothesised(NamedTuple):
    """A claim that the test of the hypothesis decides, by one of its summaries."""

    id: str
    where: str
    statement: str
    quantity: Literal["ncjsd", "difference", "partial"]


# -- papers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paper:
    """A paper whose tables, figures and claims are set beside the records.

    Attributes:
        citation: one line, without a full stop.
        exhibits: in its order.
        claims: in its order.
        untested: claims that no run decides.
        hypothesised: claims that the test of the hypothesis decides.
        printed: exhibit to the numbers it prints, in the form of records; none if it prints none.
    """

    citation: str
    exhibits: tuple[Exhibit, ...] = ()
    claims: tuple[Claim, ...] = ()
    untested: tuple[Untested, ...] = ()
    hypothesised: tuple[Hypothesised, ...] = ()
    printed: Callable[[str], Sequence[Row]] = lambda exhibit: ()


def papers() -> dict[str, Paper]:
    """Return the papers of this package and of installed plug-ins, in order of name.

    Raises:
        UserError: one cannot be imported or is no Paper, or two have an exhibit or claim of a name.
    """
    found = {}
    for name, entry in registered(GROUP).items():
        found[name] = load(entry)
        if not isinstance(found[name], Paper):
            raise UserError(
                f"the entry point {entry.value} gives no Paper: mend or remove its package"
            )
    names = Counter(name for paper in found.values() for name in _names(paper))
    if twice := [name for name, times in names.items() if times > 1]:
        raise UserError(
            f"{twice[0]} is there twice among the papers {', '.join(found)}: rename it in one of "
            "them, or remove its package"
        )
    return found


def _names(paper: Paper) -> list[str]:
    stated: list[Claim | Untested | Hypothesised] = [
        *paper.claims, *paper.untested, *paper.hypothesised,
    ]  # fmt: skip
    return [f"exhibit {e.name}" for e in paper.exhibits] + [f"claim {c.id}" for c in stated]
