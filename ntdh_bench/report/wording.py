"""How claims, correlations and runs are put into words, the same in every file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any

from ntdh_bench.records.columns import Row
from ntdh_bench.report.claims import Result
from ntdh_bench.report.effects import MIN_SETS, Effect, Pooled
from ntdh_bench.report.gates import Gate
from ntdh_bench.report.hypothesis import Hypothesis, Stratum, Summary
from ntdh_bench.report.papers import ASSUMPTIONS
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
FAMILY_NOTE = (
    "All claims here are secondary to those of the study, whose unit is the data set; p is "
    "two-sided and corrected within an exhibit, protocol and source (Holm)."
)
GATES_NOTE = (
    "Gates: ✗ failed, ? unknown. What would be decided but for a failed gate is out of scope."
)
HYPOTHESIS_NOTE = (
    "A slope is in accuracy points for one standard deviation of the divergence within its "
    "stratum, over cells, which are its units, seeds being averaged; what is given is held "
    "constant, accuracy being the teacher's (in a difference, also the other divergence). Strata "
    "are shown, not judged: those of one data set share controls and seeds. The verdict is on the "
    "mean over data sets, each counting the same (Student's t), apart for each thing that moves "
    f"the divergence, and needs {MIN_SETS} real data sets; p is corrected for all of these "
    "verdicts (Holm). Strata of fewer than three seeds, or of students that still learn, do not "
    "count. Unclear cells hold several runs of a seed that cannot be told apart; they are left "
    "out, as are teachers that see the student's modality too."
)
VERDICT_SIGNS = {
    "holds": "✓", "fails": "✗", "no effect": "0", "inconclusive": "~", "out of scope": "∅",
    "identity": "=", "not run": "–",
}  # fmt: skip
QUANTITY_NAMES = {
    "ncjsd": "NCJSD",
    "tcjsd": "TCJSD",
    "difference": "NCJSD − TCJSD, given accuracy",
    "partial": "NCJSD, given TCJSD and accuracy",
}
SUMMARY_HEAD = (
    "verdict", "source", "moved by", "slope in", "data sets", "strata", "mean [95 %]",
    "within both assumptions", "p", "Holm p",
)  # fmt: skip
_UNITS = {
    "accuracy points": ("points", 2), "per cent": ("%", 1), "rank correlation": ("ρ", 2),
    "accuracy points a standard deviation": ("points / SD", 2),
}  # fmt: skip
GATES = (*ASSUMPTIONS, "manipulation", "teacher")
_GATE_SIGNS = {True: "✓", False: "✗", None: "?"}


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


def slope(found: Effect | None) -> str:
    """Return a slope within a data set with its interval."""
    return "–" if found is None else interval(found.value, *found.interval())


def pooled(found: Pooled | None) -> str:
    """Return a mean over data sets with its interval."""
    return "–" if found is None else interval(found.value, found.low, found.high)


def estimate(found: Estimate | None) -> str:
    """Return a mean with its interval."""
    return "–" if found is None else interval(found.mean, found.low, found.high)


def gate(found: Gate) -> str:
    """Return a gate, whether it was passed, and the number it rests on."""
    shown = f" ({found.shown})" if found.shown else ""
    return f"{_GATE_SIGNS[found.passed]} {found.name}{shown}"


def open_gates(gates: Iterable[Gate]) -> str:
    """Return the gates that were not passed, the unknown ones without a number."""
    return ", ".join(gate(found) for found in gates if not found.passed) or "–"


def setting(result: Result) -> str:
    """Return the protocol and source of a claim's runs."""
    return "–" if result.protocol is None else f"{result.protocol}, {result.source}"


def where(protocol: str) -> str:
    """Return the protocol of numbers in words; empty stands for all of an experiment."""
    return f"protocol {protocol}" if protocol else "all protocols"


def summary_sentence(summary: Summary) -> str:
    """Return a summary over data sets in a sentence."""
    number = len(summary.sets)
    datasets = f"{number} data sets" if number != 1 else "one data set"
    return (
        f"Slope in {QUANTITY_NAMES[summary.quantity]} (moved by {summary.moved}) = "
        f"{_mean(summary)} points over {datasets}: {summary.verdict}"
    )


def _mean(summary: Summary) -> str:
    """Return the mean over data sets, or the effect in the only one."""
    if summary.pooled is None:
        return slope(next(iter(summary.sets.values())))
    return pooled(summary.pooled)


def summary_line(summary: Summary) -> tuple[str, ...]:
    """Return the cells of a summary's line, as :data:`SUMMARY_HEAD` names them."""
    within, decision = summary.within, summary.decision
    return (
        summary.verdict,
        summary.source,
        summary.moved,
        QUANTITY_NAMES[summary.quantity],
        str(len(summary.sets)),
        str(summary.strata),
        _mean(summary),
        f"{pooled(within)} ({within.n})" if within else "–",
        p_value(decision.p if decision else None),
        p_value(decision.p_holm if decision else None),
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


def claims_csv(results: Iterable[Result]) -> str:
    """Return the claims ledger as CSV, a column per field and per gate."""
    own = [f.name for f in fields(Result) if f.name != "gates"]
    lines = [
        [
            *(getattr(result, name) for name in own),
            *(_gate_cell(result.gates, name) for name in GATES),
        ]
        for result in results
    ]
    return _csv([*own, *(f"gate_{name}" for name in GATES)], lines)


def _gate_cell(gates: Iterable[Gate], name: str) -> str | None:
    """Return what is known of a gate; None where it does not apply."""
    words = {True: "passed", False: "failed", None: "unknown"}
    for found in gates:
        if found.name == name:
            return f"{words[found.passed]}: {found.shown}" if found.shown else words[found.passed]
    return None


def strata_csv(strata: Iterable[Stratum]) -> str:
    """Return strata as CSV, each slope as three columns, and a column per gate."""
    quantities = tuple(QUANTITY_NAMES)
    own = [f.name for f in fields(Stratum) if f.name not in (*quantities, "gates")]
    ends = [f"{quantity}_{end}" for quantity in quantities for end in ("slope", "low", "high")]
    lines = []
    for stratum in strata:
        found = [getattr(stratum, quantity) for quantity in quantities]
        numbers = [n for e in found for n in ((e.value, *e.interval()) if e else (None,) * 3)]
        gates = [_gate_cell(stratum.gates, name) for name in ASSUMPTIONS]
        lines.append([*(getattr(stratum, name) for name in own), *numbers, *gates])
    return _csv([*own, *ends, *(f"gate_{name}" for name in ASSUMPTIONS)], lines)


def sets_csv(summaries: Iterable[Summary]) -> str:
    """Return the effect in every data set behind each summary as CSV."""
    head = ("source", "moved", "quantity", "dataset", "value", "variance", "seeds", "cells")
    lines = [
        (s.source, s.moved, s.quantity, name, e.value, e.variance, e.seeds, e.cells)
        for s in summaries
        for name, e in s.sets.items()
    ]
    return _csv(head, lines)


def _csv(head: Sequence[str], lines: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([plain(value) for value in line] for line in lines)
    return text.getvalue()


def claims_markdown(results: Sequence[Result]) -> str:
    """Return the claims ledger as Markdown."""
    head = (
        "verdict", "claim", "where", "protocol, source", "n", "effect [95 %]", "p", "Holm p",
        "gates",
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
            open_gates(result.gates),
        )
        for result in results
    ]
    notes = (
        f"{N_NOTE} {FAMILY_NOTE} {GATES_NOTE} {SEEDS_NOTE} {SIMULATED_NOTE} Tests and notes are in "
        "claims.csv."
    )
    return f"# Claims of the paper\n\n{markdown_rows(head, lines)}\n\n{notes}\n"


def hypothesis_markdown(found: Hypothesis) -> str:
    """Return the hypothesis test as Markdown: summaries, then strata."""
    head = ("stratum", "source", "cells", "seeds", *QUANTITY_NAMES.values(), "gates")
    lines = [
        (
            stratum.label,
            stratum.source,
            cells(stratum),
            str(stratum.seeds),
            *(slope(getattr(stratum, quantity)) for quantity in QUANTITY_NAMES),
            open_gates(stratum.gates),
        )
        for stratum in found.strata
    ]
    summary = markdown_rows(SUMMARY_HEAD, map(summary_line, found.summaries))
    if not found.summaries:
        summary = "No stratum has enough cells and seeds."
    return (
        "# Test of the hypothesis\n\nIt predicts that the gain falls as NCJSD before distillation "
        f"grows: slopes below 0. {HYPOTHESIS_NOTE}\n\n## Over data sets\n\n{summary}\n\n"
        f"## Strata\n\n{markdown_rows(head, lines)}\n\n{GATES_NOTE} {SIMULATED_NOTE}\n"
    )


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
