"""Tables of estimates, and how they are written: Markdown, CSV and LaTeX.

A table holds numbers, not text, so that every format says the same.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple

from ntdh_bench.report.effects import NOT_RUN
from ntdh_bench.report.statistics import Estimate

_HOW_MANY = "whose number is in brackets"


class Unit(NamedTuple):
    """How a quantity is shown: times ``scale``, with ``digits`` after the point.

    What is ``exact``, such as a number of parameters, has no interval.
    """

    symbol: str
    scale: float = 1.0
    digits: int = 3
    exact: bool = False


PERCENT = Unit("%", 100.0, 1)
POINTS = Unit("points", 100.0, 2)
NATS = Unit("nats")
RATIO = Unit("", digits=2)
PLAIN = Unit("", digits=4)
MILLIONS = Unit("M", 1e-6, 4, exact=True)


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        estimate: ours, unscaled; None if it was not run.
        unit: of both numbers.
        paper: the paper's number, in the shown unit; None if it prints none.
        best: whether it is the best of its column.
    """

    estimate: Estimate | None
    unit: Unit
    paper: float | None = None
    best: bool = False

    @property
    def ours(self) -> str:
        """Our mean and its 95 % interval, as text."""
        if self.estimate is None:
            return NOT_RUN
        _, scale, digits, exact = self.unit
        mean = fixed(self.estimate.mean * scale, digits)
        if exact or self.estimate.low is None or self.estimate.high is None:
            return mean
        half = (self.estimate.high - self.estimate.low) / 2
        return f"{mean} ± {half * scale:.{digits}f}"

    @property
    def printed(self) -> str:
        """The paper's number as printed, or nothing."""
        return "" if self.paper is None else str(self.paper)


class Column(NamedTuple):
    """A column of numbers; neighbours of one ``group`` share a header above their names."""

    name: str
    group: str = ""

    @property
    def full(self) -> str:
        """Both names."""
        return f"{self.group}, {self.name}" if self.group else self.name


class Line(NamedTuple):
    """A line of a table: its labels, and a cell per column (None: there is none in the layout).

    A line of one cell in a wider table says something about all columns.
    """

    labels: tuple[str, ...]
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Table:
    """A table: ``keys`` name the label columns, ``columns`` the columns of numbers.

    ``of`` says what means are over, ``remark`` what else a reader must know: sentences.
    """

    title: str
    keys: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    sortable: bool = False
    of: Literal["seeds", "data sets"] = "seeds"
    remark: str = ""

    @property
    def cells(self) -> list[Cell]:
        """All cells that are in the layout."""
        return [cell for line in self.lines for cell in line.cells if cell]

    @property
    def seeds(self) -> int | None:
        """The number of seeds, or of what means are over, if it is the same in every cell."""
        counts = {cell.estimate.n for cell in self.cells if cell.estimate}
        return counts.pop() if len(counts) == 1 else None

    @property
    def note(self) -> str:
        """What the entries mean, and the remark: sentences."""
        parts = []
        if any(cell.estimate for cell in self.cells):
            over = f"{self.seeds} {self.of}" if self.seeds else f"{self.of}, {_HOW_MANY}"
            one = f"one {self.of.removesuffix('s')}"
            parts.append(one if self.seeds == 1 else f"mean ± 95 % interval over {over}")
        if any(cell.best for cell in self.cells):
            parts.append("bold: best of its column")
        if any(cell.paper is not None for cell in self.cells):
            parts.append("[ ]: the paper's number")
        text = "; ".join(parts)
        meaning = f"{text[0].upper()}{text[1:]}." if text else ""
        return " ".join(filter(None, (meaning, self.remark)))

    def brackets(self, cell: Cell) -> str:
        """Return the number of seeds, say, where it is not the same everywhere."""
        return f" ({cell.estimate.n})" if cell.estimate and self.seeds is None else ""

    def text(self, cell: Cell | None) -> str:
        """Return a cell in plain text: ours, the number of seeds if it varies, the paper's."""
        if cell is None:
            return "–"
        paper = f" [{cell.printed}]" if cell.printed else ""
        return f"{cell.ours}{self.brackets(cell)}{paper}"

    def header_groups(self) -> list[tuple[str, int]]:
        """Return the headers above the columns' names and how many columns each spans."""
        groups = groupby(self.columns, key=lambda column: column.group)
        return [(name, len(list(members))) for name, members in groups]


def mark_best(table: Table) -> Table:
    """Return the table with the highest mean of every column marked."""
    best = [_best([line.cells[i] for line in table.lines]) for i in range(len(table.columns))]
    lines = tuple(
        line._replace(
            cells=tuple(
                replace(cell, best=True) if cell and index in top else cell
                for cell, top in zip(line.cells, best, strict=True)
            )
        )
        for index, line in enumerate(table.lines)
    )
    return replace(table, lines=lines)


def _best(cells: Sequence[Cell | None]) -> set[int]:
    """Return where the highest mean is; nowhere if there are fewer than two to compare."""
    means = {i: c.estimate.mean for i, c in enumerate(cells) if c and c.estimate}
    return {i for i in means if means[i] == max(means.values())} if len(means) > 1 else set()


def plain(value: Any) -> Any:
    """Return a value as CSVs of the report hold it: a float with 10 significant digits.

    Its last ones depend on the machine, and so does what is left where sums should give 0.
    """
    if not isinstance(value, float):
        return value
    return f"{value:.10g}" if abs(value) >= 1e-16 else "0"


def fixed(value: float, digits: int) -> str:
    """Return a number with so many digits after the point; never -0."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


# -- Markdown ------------------------------------------------------------------------------------


def to_markdown(tables: Sequence[Table], heading: str, notes: Sequence[str]) -> str:
    """Return tables as GitHub Markdown, under a heading and followed by notes."""
    parts = [f"# {inert(heading)}"]
    for table in tables:
        if table.title:
            parts.append(f"## {inert(table.title)}")
        parts.append(_markdown_table(table))
        if table.note:
            parts.append(table.note)
    return "\n\n".join([*parts, *map(inert, notes)]) + "\n"


def _markdown_table(table: Table) -> str:
    head = [*table.keys, *(column.full for column in table.columns)]
    body = [
        [*line.labels, *(_markdown_cell(table, cell) for cell in line.cells)]
        for line in table.lines
    ]
    padded = [row + [""] * (len(head) - len(row)) for row in body]
    return markdown_rows(head, padded, numbers=len(table.columns))


def markdown_rows(head: Sequence[str], lines: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Return rows of text as a GitHub table, whose last ``numbers`` columns align to the right."""
    marks = [":--"] * (len(head) - numbers) + ["--:"] * numbers
    escaped = [[_markdown_escape(text) for text in row] for row in (head, marks, *lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def _markdown_cell(table: Table, cell: Cell | None) -> str:
    text = table.text(cell)
    if cell and cell.best:
        return text.replace(cell.ours, f"**{cell.ours}**", 1)
    return text


def _markdown_escape(text: str) -> str:
    return inert(text).replace("|", "\\|").replace("\n", " ")


def inert(text: str) -> str:
    """Return text of which Markdown makes no HTML element and no link."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text).replace("](", "]\\(")


# -- CSV -----------------------------------------------------------------------------------------

CSV_HEADER = ("table", "row", "column", "unit", "mean", "low", "high", "n", "paper")


def to_csv(tables: Sequence[Table]) -> str:
    """Return every cell of tables as a line of :data:`CSV_HEADER`, in the shown unit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for table in tables:
        for line in table.lines:
            for column, cell in zip(table.columns, line.cells, strict=False):
                if cell:
                    name = column.full if len(line.cells) == len(table.columns) else ""
                    labels = " / ".join(filter(None, line.labels))
                    writer.writerow([table.title, labels, name, *_csv_values(cell)])
    return text.getvalue()


def _csv_values(cell: Cell) -> list[Any]:
    found, scale = cell.estimate, cell.unit.scale
    numbers = [found.mean, found.low, found.high] if found else [None] * 3
    scaled = [None if number is None else plain(number * scale) for number in numbers]
    return [cell.unit.symbol, *scaled, found.n if found else 0, cell.paper]


# -- LaTeX ---------------------------------------------------------------------------------------

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
        "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "±": r"$\pm$", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "λ": r"$\lambda$",
        "ρ": r"$\rho$", "≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\to$", "–": "--", "−": "$-$",
        "×": r"$\times$", "·": r"$\cdot$", "<": r"\textless{}", ">": r"\textgreater{}", "\n": " ",
    }
)  # fmt: skip


def latex_escape(text: str) -> str:
    """Return plain text as LaTeX."""
    return text.translate(_LATEX)


def to_latex(tables: Sequence[Table], heading: str, label: str) -> str:
    """Return tables as LaTeX floats; they need the package booktabs."""
    parts = ["% needs \\usepackage{booktabs}"]
    for number, table in enumerate(tables, start=1):
        caption = ". ".join(filter(None, (heading, table.title, table.note)))
        suffix = f"-{number}" if len(tables) > 1 else ""
        parts.append(
            "\\begin{table}\n\\centering\n"
            f"\\caption{{{latex_escape(caption)}}}\n\\label{{tab:{label}{suffix}}}\n"
            f"{_tabular(table)}\n\\end{{table}}"
        )
    return "\n\n".join(parts) + "\n"


def _tabular(table: Table) -> str:
    lines = [
        f"\\begin{{tabular}}{{{'l' * len(table.keys)}{'r' * len(table.columns)}}}",
        "\\toprule",
    ]
    if any(column.group for column in table.columns):
        lines += _latex_groups(table)
    names = (*table.keys, *(column.name for column in table.columns))
    lines += [" & ".join(map(latex_escape, names)) + " \\\\", "\\midrule"]
    lines += [_latex_line(table, line) for line in table.lines]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def _latex_groups(table: Table) -> list[str]:
    cells, rules = [""] * len(table.keys), []
    start = len(table.keys) + 1
    for name, span in table.header_groups():
        cells.append(f"\\multicolumn{{{span}}}{{c}}{{{latex_escape(name)}}}")
        if name:
            rules.append(f"\\cmidrule(lr){{{start}-{start + span - 1}}}")
        start += span
    return [" & ".join(cells) + " \\\\", *rules]


def _latex_line(table: Table, line: Line) -> str:
    cells = [_latex_cell(table, cell) for cell in line.cells]
    if len(cells) < len(table.columns):
        cells = [f"\\multicolumn{{{len(table.columns)}}}{{c}}{{{cells[0]}}}"]
    return " & ".join([*map(latex_escape, line.labels), *cells]) + " \\\\"


def _latex_cell(table: Table, cell: Cell | None) -> str:
    text = latex_escape(table.text(cell))
    if cell and cell.best:
        ours = latex_escape(cell.ours)
        return text.replace(ours, f"\\textbf{{{ours}}}", 1)
    return text
