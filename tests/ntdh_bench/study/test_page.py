from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from ntdh_bench.report.html import Html
from ntdh_bench.study.drawings import readme_figure
from ntdh_bench.study.page import front
from tests.ntdh_bench.study.studies import SETS, empty_study, full_study, partial_study

STUDIES = {"full": full_study, "partial": partial_study, "empty": empty_study}


class Page(HTMLParser):
    """Reads a page: that elements nest, ids, links, attributes, and the text of each element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())

    def of(self, tag: str, attribute: str) -> list[str]:
        return [given[attribute] or "" for name, given in self.found if name == tag
                and attribute in given]  # fmt: skip


@cache
def opened(name: str) -> Html:
    return front(STUDIES[name](), ("study.md", "study.csv"))


@pytest.fixture(params=STUDIES)
def page(request: pytest.FixtureRequest) -> Page:
    return Page(opened(request.param))


@pytest.fixture
def full() -> Html:
    return opened("full")


def test_links_and_ids_are_there_once(page: Page) -> None:
    assert page.open == []
    ids = [given["id"] for _, given in page.found if "id" in given]
    assert len(set(ids)) == len(ids)
    links = page.of("a", "href")
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert [link for link in links if not link.startswith("#")] == ["study.md", "study.csv"]


def test_what_is_drawn_or_scrolls_has_a_name(page: Page) -> None:
    drawings = [given for tag, given in page.found if tag == "svg"]
    assert all(given["role"] == "img" and given["aria-label"] for given in drawings)
    boxes = [given for _, given in page.found if given.get("class") == "scroll"]
    assert all(box["role"] == "region" and box["aria-label"] for box in boxes)
    assert all(box["tabindex"] == "0" for box in boxes)
    assert all(scope in ("col", "row") for scope in page.of("th", "scope"))


def test_it_opens_on_question_answer_verdicts_and_forest_plot(full: Html) -> None:
    shown = [full.index(part) for part in (
        "A network on one modality", "No: a symptom", "P1 holds; P3 fails",
        'class="badge out-of-scope"', 'aria-label="P1: The gain falls', "The primary claims",
    )]  # fmt: skip
    assert shown == sorted(shown)
    forest = full[full.index("<svg") : full.index("</svg>")]
    assert [name for name in SETS if name not in forest] == []
    assert "all that count (6)" in forest
    assert "of these, within both assumptions (2)" in forest


def test_a_claim_has_its_numbers_gates_and_reason(full: Html) -> None:
    claim = full_study().claims[0]
    pooled = claim.parts[0].summary
    assert pooled is not None
    assert f"{pooled.value:.2f} [{pooled.low:.2f}, {pooled.high:.2f}]" in full
    assert "<td>0.014</td>" in full  # Holm p
    assert "2 data sets count, a verdict needs 5" in full
    text = " ".join(Page(full).text)
    assert "12 / 16" in text  # settings that pass the gate of the teacher
    assert "✗ <4.1> points" in text
    assert "?" in Page(full).text  # a gate that is unknown
    assert "an effect of 0.90 points per unit of dose would be found in 80 %" in text


def test_doses_sensitivity_rivals_and_guide_are_shown(full: Html) -> None:
    text = " ".join(Page(full).text)
    assert "Non-target classes shuffled" in text
    assert "Mine<&>" in text  # an intervention of a plug-in
    assert re.search(r"shuffled <&> -\d\.\d+ \[[^]]+\] 6 0 \d 0.200 to 0.200", text)
    assert "1 of 2 specifications agree in sign" in text
    assert "share of <general> features" in text
    assert "KD: distil if the teacher leads the student by more than 2.5 points" in text
    helped = [line for line in full_study().guide.lines if line.helped]
    sums = re.findall(r'<tr><th scope="row">(?:KD|DKD|SP|FitNet[^<]*)</th>.*?</tr>', full)
    counts = [re.findall(r'<td class="(?:holds|none)">(\d+)</td>', line)[0] for line in sums]
    assert sum(map(int, counts)) == len(helped) > 0


def test_text_is_escaped(full: Html) -> None:
    assert "<general>" not in full
    assert "FitNet &lt;&amp;&gt;" in full
    assert "T 1 &amp; λ 0.5" in full


def test_simulated_data_are_apart(full: Html) -> None:
    before, after = full.split("a rehearsal that decides nothing")
    assert "Rehearsed:" not in before
    assert "synthetic" not in before
    assert "Rehearsed:" in after


def test_before_any_run_it_says_how_to_begin() -> None:
    text = opened("empty")
    assert "Not tested yet" in text
    assert "ntdh-bench sweep interventions" in text
    assert "<svg" not in text
    assert "The primary claims" not in text


def test_part_of_a_study_is_not_decided() -> None:
    text = opened("partial")
    assert "Not decided" in text
    assert "1 data set counts, a verdict needs 5" in text
    assert "nan" not in text.lower()


def test_the_figure_of_the_readme_has_the_forest_plot_a_curve_and_its_key() -> None:
    text = readme_figure(full_study()) or ""
    assert len(ElementTree.fromstring(text).findall("{http://www.w3.org/2000/svg}svg")) == 3
    assert "P1. Gain against dose, over data sets" in text
    assert "Non-target classes shuffled" in text
    assert readme_figure(empty_study()) is None
