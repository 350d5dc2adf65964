from __future__ import annotations

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from ntdh_bench.report.figures import (
    DoseLine,
    ForestLine,
    draw_doses,
    draw_forest,
    draw_key,
    draw_maps,
    draw_panel,
    draw_ranks,
    draw_scatter,
    side_by_side,
)
from ntdh_bench.report.layouts import Curve, Panel
from ntdh_bench.report.ranks import Ranking
from ntdh_bench.report.statistics import Estimate
from ntdh_bench.report.tables import PERCENT

FOREST = (
    ForestLine("mnist", -0.5, -0.9, 0.1, "counts", "-0.50 [-0.90, 0.10]"),
    ForestLine("wiki <&>", 0.2, None, None, "apart", "0.20"),
    ForestLine("summary", -0.4, -30.0, 29.0, "summary"),
)
DOSES = DoseLine(7, (0.0, 0.5, 1.0), (0.0, -0.5, math.nan), (0.0, 0.1, 0.2), (0.0, 0.0, 0.0))
RANKING = Ranking(("KD", "DKD", "w/o KD <&>"), (1.25, 2.0, 2.75), tuple("abcde"), 8.0, 0.02, 1.4)
XLINK = "{http://www.w3.org/1999/xlink}href"


def make_panel(title: str = "Accuracy", even: bool = False) -> Panel:
    estimates = tuple(Estimate(0.7 - x / 10, 0.69 - x / 10, 0.71 - x / 10, 5) for x in range(3))
    curves = (
        Curve("KD <&>", (0.0, 1.0, 16.0), estimates, PERCENT, False),
        Curve("one seed", (1.0,), (Estimate(0.6, None, None, 1),), PERCENT, False),
    )
    level = Curve("w/o KD", (), (Estimate(0.65, 0.64, 0.66, 5),), PERCENT, False)
    return Panel(title, "gap", "accuracy (%)", curves, (level,), even, False)


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter()]


DRAWINGS = {
    "panel": lambda name: draw_panel(make_panel(), name),
    "even": lambda name: draw_panel(make_panel(even=True), name),
    "maps": lambda name: draw_maps([("T", np.eye(4)), ("F", np.zeros((4, 4)))], name),
    "wide maps": lambda name: draw_maps([("T", np.ones((2, 6))), ("F", np.ones((2, 6)))], name),
    "forest": lambda name: draw_forest(FOREST, "points", name),
    "doses": lambda name: draw_doses([DOSES], "shuffle <&>", "share", name),
    "key": lambda name: draw_key(["mnist", "wiki <&>"], name),
    "ranks": lambda name: draw_ranks(RANKING, name),
    "scatter": lambda name: draw_scatter([("mnist", [0.1, 0.2], [1, -1])], "x", "y", "title", name),
}


@pytest.mark.filterwarnings("error:constrained_layout not applied")
def test_long_labels_leave_room_for_the_axes() -> None:
    panel = make_panel()
    label = "alpha 1.0, beta 1.0, layer hidden1, removes F, least divergent"
    curves, levels = (
        tuple(curve._replace(label=label) for curve in of) for of in (panel.curves, panel.levels)
    )
    svg = draw_panel(replace(panel, curves=curves, levels=levels), "long")
    assert label in texts(svg)


@pytest.mark.parametrize("kind", DRAWINGS)
def test_the_same_numbers_give_the_same_bytes(kind: str) -> None:
    assert DRAWINGS[kind]("a") == DRAWINGS[kind]("a")


@pytest.mark.parametrize("kind", DRAWINGS)
def test_drawings_share_a_page_without_clashes(kind: str) -> None:
    first, second = DRAWINGS[kind]("first"), DRAWINGS[kind]("second")
    ids = [re.findall(r'\bid="([^"]+)"', svg) for svg in (first, second)]
    assert ids[0]
    assert len(set(ids[0])) == len(ids[0])
    assert not set(ids[0]) & set(ids[1])
    used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', first)
    assert {a or b for a, b in used} <= set(ids[0])
    assert "<style" not in first  # it would hold for the whole page
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", first)


def test_a_panel_says_what_it_shows() -> None:
    shown = texts(draw_panel(make_panel(), "p"))
    assert {"Accuracy", "gap", "accuracy (%)", "KD <&>", "one seed", "w/o KD"} <= set(shown)


def test_even_panels_name_their_values() -> None:
    assert {"0", "1", "16"} <= set(texts(draw_panel(make_panel(even=True), "p")))


def test_wide_maps_lie_below_each_other() -> None:
    def shape(height: int, width: int) -> float:
        drawing = draw_maps([(title, np.ones((height, width))) for title in "TRF"], "m")
        box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing)
        assert box is not None
        return float(box[1]) / float(box[2])

    assert shape(28, 28) > 2
    assert shape(56, 184) < 1


def test_a_forest_plot_prints_its_numbers_and_is_as_wide_as_data_sets_need() -> None:
    drawing = draw_forest(FOREST, "points", "f")
    shown = texts(drawing)
    assert {"mnist", "-0.50 [-0.90, 0.10]", "wiki <&>", "0.20", "summary", "points"} <= set(shown)
    ticks = [float(text) for text in shown if re.fullmatch(r"-?\d\.\d+", text)]
    assert max(map(abs, ticks)) <= 1.15 * 0.9  # the summary's interval is cut
    assert len(re.findall("fill: #ffffff", drawing)) == 1  # hollow: it does not count
    alone = texts(draw_forest(FOREST[2:], "points", "f"))
    assert {"-30", "0", "30"} <= set(alone)


def test_doses_move_both_divergences_below_the_gain() -> None:
    shown = texts(draw_doses([DOSES], "shuffle <&>", "share", "d"))
    assert {"shuffle <&>", "share", "change of gain (points)", "NCJSD", "TCJSD"} <= set(shown)
    key = draw_key([f"set {place}" for place in range(8)], "k")
    assert {f"set {place}" for place in range(8)} <= set(texts(key))


def test_a_diagram_of_ranks_names_methods_and_the_critical_difference() -> None:
    drawing = draw_ranks(RANKING, "r")
    methods = {"KD", "DKD", "w/o KD <&>"}
    assert methods | {"1", "2", "3", "critical difference 1.40"} <= set(texts(drawing))
    bar = "#d55e00"
    assert drawing.count(bar) == len(RANKING.alike) == 2
    untested = draw_ranks(Ranking(RANKING.methods, RANKING.ranks, RANKING.sets), "r")
    assert methods <= set(texts(untested))
    assert "critical" not in untested
    assert bar not in untested


def test_a_file_holds_all_drawings() -> None:
    drawings = [draw_panel(make_panel(title), title) for title in ("a", "b", "c")]
    text = side_by_side(drawings, "Fig. <3>")
    root = ElementTree.fromstring(text)
    inner = root.findall("{http://www.w3.org/2000/svg}svg")
    assert [(float(s.attrib["x"]) > 0, float(s.attrib["y"]) > 0) for s in inner] == [
        (False, False), (True, False), (False, True),
    ]  # fmt: skip
    width, height = (float(root.attrib[name].removesuffix("pt")) for name in ("width", "height"))
    for drawing in inner:
        assert float(drawing.attrib["x"]) + float(drawing.attrib["width"]) <= width
        assert float(drawing.attrib["y"]) + float(drawing.attrib["height"]) <= height
    assert "Fig. <3>" in texts(text)
