"""Directives that print what the catalogue, the configs and the results say.

A page that repeated it would go stale. ``dataset NAME`` prints a data set's entry of the catalogue,
``configs PREFIX ...`` the configs called so, ``gains-of METHOD`` what a method gained on every data
set, ``gains-on DATASET`` what every method gained there, ``methods`` the means over data sets, and
``doses INTERVENTION`` what an intervention moved, with the gain at each of its doses.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from ntdh_bench.composition import shipped_configs
from ntdh_bench.datasets import DatasetInfo, Option, find_dataset
from ntdh_bench.report.statistics import Estimate, mean_ci

_RESULTS = Path(__file__).resolve().parents[2] / "results"
GUIDE, CURVES = _RESULTS / "study_guide.csv", _RESULTS / "study_curves.csv"

Line = dict[str, str]
#: Lines of Markdown, of the words behind a directive.
Printer = Callable[[Sequence[str]], Iterable[str]]

_SIGNS = {"True": "helped", "False": "harmed", "": "open"}
_NOT_RUN = "*Not run yet.*"
#: Words of a command line, in which two dashes are to stay two.
_COMMAND = re.compile(r"((?:data )?prepare\b[^,;()]*|--\S+ FILE)")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


# -- data sets -----------------------------------------------------------------------------------


def dataset(words: Sequence[str]) -> list[str]:
    """Print the entry of a data set: modalities, files, sizes, licence, commands."""
    info = find_dataset(words[0])
    facts = {
        "modalities": " → ".join(info.modalities) if not info.either_way else _any(info.modalities),
        "below the data root": ", ".join(f"`{name}`" for name in info.folders) or "nothing",
        **_sizes(info),
        "licence": info.licence,
        "how to get it": _COMMAND.sub(r"`\1`", info.how_to_get),
        "options of `data prepare`": "; ".join(map(_option, info.options)),
    }
    return table(["", ""], [[f"**{name}**", value] for name, value in facts.items() if value])


def _any(modalities: Sequence[str]) -> str:
    return f"{', '.join(modalities)}: any teaches any other"


def _sizes(info: DatasetInfo) -> dict[str, str]:
    names: Sequence[str] = getattr(info, "class_names", ())
    count: int = getattr(info, "samples", 0)
    return {
        "published samples": f"{count:,}" if count else "",
        "classes": f"{len(names)}: {', '.join(names)}" if names else "",
    }


def _option(option: Option) -> str:
    default = "" if option.default in (None, False) else f", by default {option.default}"
    return f"`{option.flag}` ({option.help}{default})"


def configs(words: Sequence[str]) -> list[str]:
    """Print names and titles of the configs of runs that are called ``PREFIX_...``."""
    prefixes = tuple(f"{word}_" for word in words)
    found = {n: path for n, path in shipped_configs().items() if n.startswith(prefixes)}
    if not found:
        raise ValueError(f"no config is called {' or '.join(prefixes)}...")
    return table(["config", "what it is"], [[f"`{n}`", _title(path)] for n, path in found.items()])


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()


# -- what was measured ---------------------------------------------------------------------------


def guide() -> list[Line]:
    """Return the lines of ``results/study_guide.csv``: gains of a method on a data set."""
    return _lines(GUIDE)


def _lines(path: Path) -> list[Line]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def gains_of(words: Sequence[str]) -> list[str]:
    """Print what a method, by its name in the results, gained on each data set."""
    return _gains("data set", "protocol", "method", " ".join(words))


def gains_on(words: Sequence[str]) -> list[str]:
    """Print what each method gained on a data set, or under a protocol of it."""
    return _gains("method", "method", "protocol", " ".join(words))


def _gains(what: str, shown: str, key: str, value: str) -> list[str]:
    lines = [line for line in guide() if line[key] == value]
    lines.sort(key=lambda line: -float(line["gain"]))
    head = [what, "gain over w/o KD, points [95 %]", "seeds", "teacher ahead by", "outcome"]
    rows = [
        [
            _name(line[shown], line["teacher"]), _interval(line), line["gain_n"],
            f"{float(line['lead']):.1f}" if line["lead"] else "–", _SIGNS[line["helped"]],
        ]
        for line in lines
    ]  # fmt: skip
    return table(head, rows) if rows else [_NOT_RUN]


def _name(name: str, teacher: str) -> str:
    return f"{name} (teacher: both)" if teacher == "both" else name


def _interval(line: Line) -> str:
    low, high = (float(line[end]) if line[end] else None for end in ("gain_low", "gain_high"))
    return _shown(float(line["gain"]), low, high)


def _shown(mean: float, low: float | None, high: float | None) -> str:
    return f"{mean:.2f}" + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")


def methods(_: Sequence[str]) -> list[str]:
    """Print for each method the mean of its gains over data sets, the largest first."""
    found: dict[str, list[Line]] = {}
    for line in guide():
        found.setdefault(line["method"], []).append(line)
    means = {name: over_sets(lines) for name, lines in found.items()}
    head = ["method", "data sets", "mean gain, points [95 %]", "helped", "harmed", "settings"]
    rows = []
    for name in sorted(found, key=lambda name: -means[name].mean):
        of, signs = means[name], [_SIGNS[line["helped"]] for line in found[name]]
        counts = [str(signs.count(sign)) for sign in ("helped", "harmed")]
        rows.append([name, str(of.n), _shown(of.mean, of.low, of.high), *counts, str(len(signs))])
    return table(head, rows) if rows else [_NOT_RUN]


def over_sets(lines: Sequence[Line]) -> Estimate:
    """Return the mean gain over data sets, each the mean over its settings."""
    found: dict[str, list[float]] = {}
    for line in lines:
        found.setdefault(line["dataset"], []).append(float(line["gain"]))
    mean = mean_ci(sum(gains) / len(gains) for gains in found.values())
    assert mean is not None  # there are lines
    return mean


def doses(words: Sequence[str]) -> list[str]:
    """Print for each data set what an intervention moved, and the gain at each of its doses."""
    found: dict[str, dict[float, Line]] = {}
    for line in _lines(CURVES):
        if line["intervention"] == words[0]:
            found.setdefault(line["protocols"], {})[float(line["dose"])] = line
    given = sorted({dose for of in found.values() for dose in of})
    head = ["data set", "NCJSD", "TCJSD", *(f"gain at {dose:g}" for dose in given)]
    rows = [
        [name, _moved(of, "ncjsd"), _moved(of, "tcjsd"), *(_gain(of.get(dose)) for dose in given)]
        for name, of in found.items()
    ]
    return table(head, rows) if rows else [_NOT_RUN]


def _moved(of: dict[float, Line], name: str) -> str:
    """Return a divergence without the intervention, and at its largest dose."""
    return f"{float(of[min(of)][name]):.3f} → {float(of[max(of)][name]):.3f}"


def _gain(line: Line | None) -> str:
    if line is None:
        return "–"
    low, high = line["gain_low"], line["gain_high"]
    half = f" ± {(float(high) - float(low)) / 2:.2f}" if low and high else ""
    return f"{float(line['gain']):.2f}{half}"


# -- Sphinx --------------------------------------------------------------------------------------


class _Printed(SphinxDirective):
    """A directive that stands for the Markdown of a printer."""

    optional_arguments = 1
    final_argument_whitespace = True
    printer: ClassVar[Printer]

    def run(self) -> list[Node]:
        words = " ".join(self.arguments).split()
        for path in (GUIDE, CURVES, Path(__file__)):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes("\n".join(type(self).printer(words)) + "\n")


PRINTERS: dict[str, Printer] = {
    "dataset": dataset,
    "configs": configs,
    "gains-of": gains_of,
    "gains-on": gains_on,
    "methods": methods,
    "doses": doses,
}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    for name, printer in PRINTERS.items():
        of = type(f"Printed_{name}", (_Printed,), {"printer": staticmethod(printer)})
        app.add_directive(name, of)
    return {"parallel_read_safe": True}
