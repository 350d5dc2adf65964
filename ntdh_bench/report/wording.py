"""How claims, correlations and runs are put into words, the same in every file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any

from ntdh_bench.records.columns import Row
from ntdh_bench.report.claims import Result
from ntdh_bench.report.effects import Pooled
from ntdh_bench.report.hypothesis import Correlation, Hypothesis, Stratum, Summary
from ntdh_bench.report.statistics import Estimate
from ntdh_bench.report.tables import fixed, markdown_rows, plain

SEEDS_NOTE = (
    "Seeds measure training noise, not data sampling: an interval says how far another training "
    "run may lie, not another data set."
)
SIMULATED_NOTE = (
    "Simulated data are generated here; numbers from them say nothing about a published data set. "
    "Real and simulated numbers never share a table."
)
N_NOTE = "n counts seeds; in the test of the hypothesis, data sets."
VERDICTS_NOTE = (
    "A stratum supports it if the interval of ρ(NCJSD) lies wholly below 0 and that of the "
    'difference ρ(NCJSD) − ρ(TCJSD) not wholly above 0; "not specific" means that the target '
    "divergence predicts better; fewer than five seeds decide nothing. Strata of one data set "
    "share controls and seeds, so the summary counts data sets, and needs three for a verdict. "
    "Unclear cells hold several runs of a seed that cannot be told apart; they are left out, as "
    "are teachers that see the student's modality too."
)
FAMILIES_NOTE = (
    "Strata that mix what moves the divergence, taken apart: the masks of one kind of teacher at "
    "one gap, or the unmasked teachers. Descriptive only."
)
FAMILY_HEAD = (
    "stratum", "source", "family", "cells", "seeds", "ρ(NCJSD, gain)", "ρ(TCJSD, gain)",
)  # fmt: skip
VERDICT_SIGNS = {
    "holds": "✓", "fails": "✗", "no effect": "0", "inconclusive": "~", "out of scope": "∅",
    "identity": "=", "not run": "–",
}  # fmt: skip
QUANTITY_NAMES = {
    "ncjsd": "ρ(NCJSD, gain)",
    "tcjsd": "ρ(TCJSD, gain)",
    "difference": "ρ(NCJSD) − ρ(TCJSD)",
    "partial": "ρ(NCJSD, gain) given the teacher's accuracy",
}
_UNITS = {"accuracy points": ("points", 2), "per cent": ("%", 1), "rank correlation": ("ρ", 2)}


def number(value: float | None, digits: int = 2) -> str:
    """Return a number, or a dash for none."""
    return "–" if value is None else fixed(value, digits)


def p_value(p: float | None) -> str:
    """Return a p value to three digits; small ones as a bound."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval(value: float | None, low: float | None, high: float | None, digits: int = 2) -> str:
    """Return a value and its 95 % interval."""
    if value is None or low is None or high is None:
        return number(value, digits)
    return f"{fixed(value, digits)} [{fixed(low, digits)}, {fixed(high, digits)}]"


def effect(result: Result) -> str:
    """Return a claim's effect with its interval and unit."""
    if result.effect is None:
        return "–"
    unit, digits = _UNITS.get(result.unit, (result.unit, 3))
    return f"{interval(result.effect, result.low, result.high, digits)} {unit}"


def correlation(found: Correlation | None) -> str:
    """Return a rank correlation with its interval."""
    return "–" if found is None else interval(found.value, found.low, found.high)


def estimate(found: Estimate | None) -> str:
    """Return a mean with its interval."""
    return "–" if found is None else interval(found.mean, found.low, found.high)


def pooled(found: Pooled | None) -> str:
    """Return a mean over data sets with its interval."""
    return "–" if found is None else interval(found.value, found.low, found.high)


def setting(result: Result) -> str:
    """Return the protocol and source of a claim's runs."""
    return "–" if result.protocol is None else f"{result.protocol}, {result.source}"


def where(protocol: str) -> str:
    """Return the protocol of numbers in words; empty stands for all of an experiment."""
    return f"protocol {protocol}" if protocol else "all protocols"


def summary_sentence(summary: Summary) -> str:
    """Return a summary over strata in a sentence."""
    strata = f"{summary.strata} strata" if summary.strata != 1 else "one stratum"
    datasets = f"{summary.datasets} data sets" if summary.datasets != 1 else "one data set"
    value = interval(summary.value, summary.low, summary.high)
    return (
        f"{QUANTITY_NAMES[summary.quantity]} = {value} over {datasets} ({strata}): "
        f"{summary.verdict}"
    )


def cells(stratum: Stratum) -> str:
    """Return the number of a stratum's cells, and of those left out."""
    return f"{stratum.cells} ({stratum.unclear} unclear)" if stratum.unclear else f"{stratum.cells}"


# -- files ---------------------------------------------------------------------------------------


def dataclass_csv(kind: type, items: Iterable[Any]) -> str:
    """Return dataclass instances as CSV, a column per field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(kind)], lineterminator="\n")
    writer.writeheader()
    for item in items:
        writer.writerow({name: plain(value) for name, value in asdict(item).items()})
    return text.getvalue()


def strata_csv(strata: Iterable[Stratum]) -> str:
    """Return strata as CSV, each correlation as three columns."""
    quantities = tuple(QUANTITY_NAMES)
    own = [f.name for f in fields(Stratum) if f.name not in (*quantities, "families")]
    ends = [f"{quantity}_{end}" for quantity in quantities for end in ("rho", "low", "high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*own, *ends])
    for stratum in strata:
        found = [getattr(stratum, quantity) for quantity in quantities]
        numbers = [n for c in found for n in ((c.value, c.low, c.high) if c else (None,) * 3)]
        values = [*(getattr(stratum, name) for name in own), *numbers]
        writer.writerow(map(plain, values))
    return text.getvalue()


def claims_markdown(results: Sequence[Result]) -> str:
    """Return the claims ledger as Markdown."""
    head = (
        "verdict", "claim", "where", "protocol, source", "n", "effect [95 %]", "p", "Holm p",
    )  # fmt: skip
    lines = [
        (
            f"{VERDICT_SIGNS[result.verdict]} {result.verdict}",
            result.statement,
            result.where,
            setting(result),
            str(result.n),
            effect(result),
            p_value(result.p),
            p_value(result.p_corrected),
        )
        for result in results
    ]
    notes = f"{N_NOTE} {SEEDS_NOTE} {SIMULATED_NOTE} Tests and notes are in claims.csv."
    return f"# Claims of the paper\n\n{markdown_rows(head, lines)}\n\n{notes}\n"


def hypothesis_markdown(found: Hypothesis) -> str:
    """Return the hypothesis test as Markdown: summaries, then strata."""
    sentences = [f"- {s.source} data: {summary_sentence(s)}" for s in found.summaries]
    head = ("stratum", "source", "cells", "seeds", *QUANTITY_NAMES.values(), "verdict")
    lines = [
        (
            stratum.label,
            stratum.source,
            cells(stratum),
            str(stratum.seeds),
            *(correlation(getattr(stratum, quantity)) for quantity in QUANTITY_NAMES),
            stratum.verdict,
        )
        for stratum in found.strata
    ]
    summary = "\n".join(sentences) or "No stratum has enough cells and seeds."
    return (
        "# Test of the hypothesis\n\nIt predicts ρ(NCJSD before distillation, gain) < 0 over the "
        f"cells of a stratum. {VERDICTS_NOTE}\n\n{summary}\n\n{markdown_rows(head, lines)}\n\n"
        f"{_families_markdown(found)}{SEEDS_NOTE} {SIMULATED_NOTE}\n"
    )


def families(found: Hypothesis) -> list[tuple[str, str, str, str, str, str, str]]:
    """Return a line per family: stratum, source, family, cells, seeds, both correlations."""
    return [
        (
            stratum.label,
            stratum.source,
            family.label,
            str(family.cells),
            str(family.seeds),
            correlation(family.ncjsd),
            correlation(family.tcjsd),
        )
        for stratum in found.strata
        for family in stratum.families
    ]


def _families_markdown(found: Hypothesis) -> str:
    lines = families(found)
    if not lines:
        return ""
    return f"## By family\n\n{FAMILIES_NOTE}\n\n{markdown_rows(FAMILY_HEAD, lines)}\n\n"


# -- how a number was made -----------------------------------------------------------------------


def provenance(rows: Sequence[Row]) -> dict[str, str]:
    """Return how runs were made: protocol, seeds, data, versions, device, time."""
    versions = [
        f"{name.replace('_', '-')} {_distinct(rows, name)}"
        for name in ("ntdh_bench", "torch", "lightning", "numpy", "scikit_learn", "python")
        if any(row[name] for row in rows)
    ]
    hours = sum(row["seconds"] or 0.0 for row in rows) / 3600
    return {
        "protocol": f"{_distinct(rows, 'protocol')}, {_distinct(rows, 'epochs')} epochs",
        "seeds": _distinct(rows, "seed"),
        "runs": f"{len(rows)}, {hours:.1f} h",
        "data": f"{_distinct(rows, 'dataset')}, {_distinct(rows, 'source')}",
        "data fingerprints": _distinct(rows, "data_fingerprint"),
        "versions": ", ".join(versions),
        "commit": _distinct(rows, "git_commit"),
        "device": _distinct(rows, "device"),
        "threads": _distinct(rows, "threads"),
    }


def _distinct(rows: Iterable[Row], column: str, most: int = 5) -> str:
    values = sorted({row[column] for row in rows if row[column] is not None})
    if column == "seed" and len(values) > 1 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    shown = ", ".join(map(str, values[:most]))
    return f"{shown} and {len(values) - most} more" if len(values) > most else shown or "–"
