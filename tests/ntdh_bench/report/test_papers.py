"""A paper of a third-party package, installed beside this one."""

from __future__ import annotations

import csv
import importlib
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ntdh_bench import plugins
from ntdh_bench.errors import UserError
from ntdh_bench.report.build import build
from ntdh_bench.report.check import check, code_digest, is_current, paper_digests
from ntdh_bench.report.papers import GROUP, papers
from tests.ntdh_bench.report.rows import make_row, write_results
from tests.third_party import forget_code

TOY = """
from pathlib import Path

import yaml

from ntdh_bench.report.cells import select
from ntdh_bench.report.contrasts import SCORE, cell, minus
from ntdh_bench.report.layouts import LineSpec, PanelSpec, table_cell
from ntdh_bench.report.pairing import scored
from ntdh_bench.report.papers import POINTS, POSITIVE, Claim, Exhibit, Paper, Untested, one
from ntdh_bench.report.tables import Column, Line, Table

PRINTED = yaml.safe_load(Path(__file__).with_name("printed.yaml").read_text())


def gaps(rows):
    cells = [table_cell(select(rows, {"gap": g, "arm": "kd"}), "last_test_score", PRINTED[g])
             for g in (0.0, 1.0)]
    line = Line(("KD",), tuple(cells))
    return [Table("Toys", ("method",), (Column("near"), Column("far")), (line,))]


def printed(exhibit):
    blank = {**make_blank(), "measure": "accuracy"}
    return [scored({**blank, "gap": g, "seed": 0, "arm": "kd", "last_test_accuracy": a / 100})
            for g, a in PRINTED.items()] if exhibit == "toys" else []


def make_blank():
    from ntdh_bench.records.columns import blank_row
    return blank_row()


panel = PanelSpec("Toys by gap", "gap", "gap", "last_test_score", (LineSpec("KD", {"arm": "kd"}),))
near = minus(cell(SCORE, arm="kd", gap=0.0), cell(SCORE, arm="kd", gap=1.0))
PAPER = Paper(
    "A. Nother, On toys, 2031",
    (Exhibit("toys", "Table 1", "Toys near and far", "mine", table=gaps),
     Exhibit("toyfig", "Fig. 1", "Toys by gap", "mine", (panel,), says="Nearer toys are better."),
     Exhibit("unrun", "Table 9", "Never run", "nothing_yet", table=gaps)),
    (Claim("toys.near", "Sec. 2", "Near toys beat far ones", "mine", "accuracy: near minus far",
           POINTS, POSITIVE, one(near)),),
    (Untested("toys.fun", "Sec. 3", "Toys are fun", "mine", "a matter of taste"),),
    printed=printed,
)
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an installed package with a paper."""
    site = tmp_path / "site"
    package, info = site / "toy", site / "toy_paper-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text("")
    (package / "paper.py").write_text(TOY)
    (package / "printed.yaml").write_text("0.0: 70.5\n1.0: 60.25\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-paper\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ntoy = toy.paper:PAPER\n")
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    yield package
    look_again()


def test_another_papers_exhibits_and_claims_are_in_every_file(toy: Path, tmp_path: Path) -> None:
    results, store = tmp_path / "results", tmp_path / "no-store"
    write_results(results, [
        make_row(experiment="mine", protocol="p", gap=gap, seed=seed)
        for gap in (0.0, 1.0)
        for seed in range(6)
    ])  # fmt: skip
    report = build(results, store)
    stem = results / "tables" / "toys-p-real"
    texts = [stem.with_suffix(f".{kind}").read_text() for kind in ("md", "csv", "tex")]
    assert all("70.5" in text and "60.25" in text and "near" in text for text in texts)
    assert "# Table 1. Toys near and far (protocol p, real data)" in texts[0]
    assert "Toys by gap" in (results / "figures" / "toyfig-p-real.svg").read_text()
    assert "not run [70.5]" in (results / "tables" / "unrun.md").read_text()
    assert not (results / "tables" / "mine-p-real.md").exists()  # it is no unlisted experiment
    page = (results / "index.html").read_text()
    for text in ("A. Nother, On toys, 2031", "Nearer toys are better", "Near toys beat far ones",
                 'id="toys"', 'href="#toys"', "Toys are fun"):  # fmt: skip
        assert text in page
    assert "Table II" in page
    ledger = {row["id"]: row for row in csv.DictReader((results / "claims.csv").open(newline=""))}
    assert ledger["toys.near"]["verdict"] == "holds"
    assert ledger["toys.near"]["published"] == "agree"
    assert ledger["toys.fun"]["note"] == "a matter of taste"
    assert ledger["table2.none"]["verdict"] == "not run"
    assert len(report.claims) == len(ledger)

    assert check(results, store) == []
    (toy / "printed.yaml").write_text("0.0: 71.5\n1.0: 60.25\n")
    (stale,) = check(results, store)
    assert stale.startswith("papers/toy changed; stale: ")
    assert "tables/toys-p-real.md" in stale
    assert "table2" not in stale


def test_other_code_of_a_paper_makes_the_report_again(toy: Path, tmp_path: Path) -> None:
    results, store = tmp_path / "results", tmp_path / "no-store"
    write_results(results, [make_row(experiment="mine", protocol="p", gap=0.0)])
    look_again()
    build(results, store)
    assert is_current(results, store)
    (toy / "paper.py").write_text(TOY.replace("Toys are fun", "Toys are dull"))
    look_again()
    assert check(results, store) == []  # code is no input
    assert not is_current(results, store)
    build(results, store)
    assert is_current(results, store)
    (results / "claims.csv").write_text("")
    assert not is_current(results, store)


def look_again() -> None:
    forget_code()
    code_digest.cache_clear()
    for name in ("toy", "toy.paper"):
        sys.modules.pop(name, None)


def test_the_papers_own_reports_need_no_other(toy: Path, tmp_path: Path) -> None:
    build(tmp_path, tmp_path / "no-store")
    (toy.parent / "toy_paper-1.0.dist-info" / "entry_points.txt").unlink()
    importlib.invalidate_caches()
    found = check(tmp_path, tmp_path / "no-store")
    assert found[0].startswith("papers/toy is gone; stale: ")
    build(tmp_path, tmp_path / "no-store")
    assert "Toys" not in (tmp_path / "index.html").read_text()
    assert not (tmp_path / "tables" / "toys.md").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ntdh_bench.report.papers:GROUP", "papers:GROUP gives no Paper: mend or remove"),
        (
            "ntdh_bench.paper.plugin:NTDH",
            "exhibit table1 is there twice among the papers ntdh, people, x",
        ),
        ("no_such_package:PAPER", "cannot import the plugin no_such_package:PAPER"),
        ("not a module", "cannot import the plugin not a module"),
    ],
)
def test_what_is_no_paper_is_one_line(
    value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: (EntryPoint("x", value, GROUP),))
    assert set(paper_digests()) == {"ntdh", "people", "x"}
    with pytest.raises(UserError, match=message):
        papers()
