from __future__ import annotations

import csv
import io
import re

import pytest

from ntdh_bench.report.statistics import Estimate
from ntdh_bench.report.tables import (
    MILLIONS,
    NATS,
    PERCENT,
    POINTS,
    Cell,
    Column,
    Line,
    Table,
    fixed,
    latex_escape,
    mark_best,
    plain,
    to_csv,
    to_latex,
    to_markdown,
)


def estimate(mean: float, half: float = 0.01, n: int = 5) -> Estimate:
    return Estimate(mean, mean - half, mean + half, n)


def table(*cells: Cell | None) -> Table:
    """A column of cells, one line each."""
    lines = tuple(Line((f"line {i}",), (cell,)) for i, cell in enumerate(cells))
    return Table("", ("what",), (Column("DKD"),), lines)


def test_a_cell_says_mean_and_interval_in_its_unit() -> None:
    assert Cell(estimate(0.7129, 0.0041), PERCENT).ours == "71.3 ± 0.4"
    assert Cell(estimate(-0.0129, 0.0041), POINTS).ours == "-1.29 ± 0.41"
    assert Cell(estimate(0.1994, 0.003), NATS).ours == "0.199 ± 0.003"
    assert Cell(Estimate(0.7129, None, None, 1), PERCENT).ours == "71.3"
    assert Cell(estimate(535818.0, 0.0), MILLIONS).ours == "0.5358"
    assert Cell(None, PERCENT).ours == "not run"


def test_no_negative_zero() -> None:
    assert fixed(-0.0004, 2) == "0.00"
    assert fixed(-0.006, 2) == "-0.01"


@pytest.mark.parametrize("printed", [59.85, 83.0, 0.0014])
def test_the_papers_numbers_stay_as_printed(printed: float) -> None:
    assert float(Cell(None, PERCENT, printed).printed) == printed
    assert "." in Cell(None, PERCENT, printed).printed


def test_seeds_are_said_once_where_they_agree_and_in_every_cell_where_not() -> None:
    same = table(Cell(estimate(0.5), PERCENT), Cell(estimate(0.6), PERCENT))
    assert same.note == "Mean ± 95 % interval over 5 seeds."
    assert same.text(same.cells[0]) == "50.0 ± 1.0"
    other = table(Cell(estimate(0.5), PERCENT), Cell(estimate(0.6, n=3), PERCENT))
    assert [other.text(cell) for cell in other.cells] == ["50.0 ± 1.0 (5)", "60.0 ± 1.0 (3)"]
    assert "in brackets" in other.note


def test_best_is_the_highest_of_its_column_and_needs_a_rival() -> None:
    cells = [Cell(estimate(mean), PERCENT) for mean in (0.5, 0.7, 0.6)]
    marked = mark_best(table(*cells, Cell(None, PERCENT), None))
    assert [bool(cell and cell.best) for (cell,) in (line.cells for line in marked.lines)] == [
        False, True, False, False, False,
    ]  # fmt: skip
    alone = mark_best(table(cells[0], Cell(None, PERCENT)))
    assert not any(cell.best for cell in alone.cells)


def test_markdown() -> None:
    shown = table(Cell(estimate(0.713), PERCENT, 75.8, best=True), Cell(None, PERCENT, 70.3), None)
    text = to_markdown([shown], "Table | II", ["A note."])
    assert text.splitlines()[2:8] == [
        "| what | DKD |",
        "| :-- | --: |",
        "| line 0 | **71.3 ± 1.0** [75.8] |",
        "| line 1 | not run [70.3] |",
        "| line 2 | – |",
        "",
    ]
    assert text.endswith("A note.\n")


def test_markdown_escapes_bars_and_pads_short_lines() -> None:
    wide = Table("", ("a|b",), (Column("x"), Column("y")), (Line(("1",), (None,)),))
    assert "| a\\|b | x | y |" in to_markdown([wide], "T", [])
    assert "| 1 | – |  |" in to_markdown([wide], "T", [])


@pytest.mark.parametrize("text", ["<script>x", "</b>", "<!-- x", "<?php", "[a](javascript:x)"])
def test_markdown_holds_no_element_and_no_link(text: str) -> None:
    table = Table(text, (text,), (Column(text),), (Line((text,), (None,)),))
    shown = to_markdown([table], text, [text])
    assert text not in shown
    assert to_markdown([], "p < 0.001, [68.5] (3)", []) == "# p < 0.001, [68.5] (3)\n"


def test_csv_numbers_have_ten_digits_and_no_rounding() -> None:
    values = (0.1 + 0.2, 2 / 3, -1e-17, 1.9390434783e-14, 3, None, "x")
    assert [plain(value) for value in values] == [
        "0.3", "0.6666666667", "0", "1.939043478e-14", 3, None, "x",
    ]  # fmt: skip


def test_csv_has_every_number_in_full() -> None:
    shown = table(Cell(estimate(0.7131234, 0.01), PERCENT, 75.8), Cell(None, PERCENT, 70.3), None)
    lines = list(csv.DictReader(io.StringIO(to_csv([shown]))))
    assert len(lines) == 2
    first, second = lines
    assert float(first["mean"]) == pytest.approx(71.31234, abs=1e-12)
    assert float(first["high"]) - float(first["low"]) == pytest.approx(2.0)
    assert (first["row"], first["column"], first["unit"]) == ("line 0", "DKD", "%")
    assert (first["n"], first["paper"]) == ("5", "75.8")
    assert (second["mean"], second["n"], second["paper"]) == ("", "0", "70.3")


def test_latex_is_escaped_and_balanced() -> None:
    groups = (Column("T_1", "γ = 0.5"), Column("F", "γ = 0.5"), Column("R"))
    cells = (Cell(estimate(0.5), PERCENT, best=True), None, Cell(None, PERCENT, 1.5))
    lines = (Line(("50 % & more",), cells), Line(("all",), cells[:1]))
    text = to_latex([Table("", ("what",), groups, lines)], "Masks_ & more", "masks")
    assert r"\multicolumn{2}{c}{$\gamma$ = 0.5}" in text
    assert r"\cmidrule(lr){2-3}" in text
    assert r"50 \% \& more & \textbf{50.0 $\pm$ 1.0} & -- & not run [1.5] \\" in text
    assert r"\multicolumn{3}{c}{\textbf{50.0 $\pm$ 1.0}}" in text
    assert len(re.findall(r"\\begin", text)) == len(re.findall(r"\\end", text)) == 2
    assert text.count("{") == text.count("}")
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert body.splitlines()[1].replace(r"\&", "").count("&") == 3


def test_latex_escape_leaves_no_special_character() -> None:
    assert latex_escape(r"a\b_{c}~^#$%&") == (
        r"a\textbackslash{}b\_\{c\}\textasciitilde{}\textasciicircum{}\#\$\%\&"
    )
