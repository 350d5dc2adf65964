from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from ntdh_bench.errors import UserError
from ntdh_bench.experiments import TRIAL, load_experiment
from ntdh_bench.records.collecting import collect, record_path
from ntdh_bench.records.files import write_record
from ntdh_bench.records.rows import csv_path
from ntdh_bench.report.build import build
from ntdh_bench.report.check import MANIFEST, check
from ntdh_bench.report.contents import stem_of
from ntdh_bench.report.html import el
from ntdh_bench.report.papers import papers
from ntdh_bench.report.studies import Added
from tests.ntdh_bench.report.rows import make_record, make_row, table2, write_results

_VOID = {"meta", "link", "input"}


class Page(HTMLParser):
    """Reads a page: that elements nest, what it links to, ids, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        if tag == "a":
            self.links.append(given.get("href") or "")
        elif "href" in given or "src" in given:
            self.sources.append(given.get("href") or given.get("src") or "")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def page(built: Path) -> Page:
    return Page((built / "index.html").read_text("utf-8"))


def test_every_exhibit_with_runs_has_its_files(built: Path) -> None:
    stem = "table2-mnist-real"
    for kind in ("md", "csv", "tex"):
        assert (built / "tables" / f"{stem}.{kind}").stat().st_size > 500
    assert (built / "figures" / "fig8-synthetic_converged-simulated.svg").is_file()
    assert (built / "figures" / "fig10-mnist-real.svg").is_file()
    assert (built / "tables" / "table3.md").read_text().count("not run") == 66
    assert not list((built / "figures").glob("fig11a*"))
    assert (built / "tables" / "smoke-smoke-simulated.md").is_file()


def test_dense_data_show_mean_iou_and_the_maps_of_their_samples(built: Path) -> None:
    table = (built / "tables" / "table4-small-simulated.md").read_text()
    assert "mIoU (%)" in table
    assert "[65.2]" not in table  # the paper's numbers are of real data
    drawing = (built / "figures" / "fig12-small-simulated.svg").read_text()
    assert drawing.count("<image") == 6
    assert not (built / "tables" / "fig12-small-simulated.md").exists()
    assert "sample 2, share dropped" in (built / "index.html").read_text()


def test_a_users_experiment_with_axes_and_metrics_of_its_own_is_everywhere(tmp_path: Path) -> None:
    """Temperature x learning rate, and a metric of a user's module, as a sweep collects them."""
    spec = {
        "title": "mine", "protocols": {"tiny": {"seeds": 2}},
        "grids": [{"axes": {"x.init_args.temperature": [1, 10], "y.init_args.lr": [0.1, 0.01]}}],
    }  # fmt: skip
    path = tmp_path / "hot_rates.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    experiment, store = load_experiment(path), tmp_path / "store"
    accuracy = {("1", "0.1"): 0.1, ("1", "0.01"): 0.3, ("10", "0.1"): 0.5, ("10", "0.01"): 0.9}
    for run in experiment.runs:
        score = accuracy[run.labels["x.init_args.temperature"], run.labels["y.init_args.lr"]]
        test = {"accuracy": score, "brier": 1 - score, "score": 10 * score}
        record = make_record(
            run=run.hash, seed=run.seed, metrics={"last": {"test": test}, "best": None}
        )
        write_record(record_path(store, run.hash), record)
    collect(experiment, store, tmp_path)
    report = build(tmp_path, tmp_path / "no-store")
    assert report.evidence.problems == []

    stem, cells = "hot_rates-tiny-real", ("1 / 0.1", "1 / 0.01", "10 / 0.1", "10 / 0.01")
    with (tmp_path / "tables" / f"{stem}.csv").open(newline="") as file:
        found = {(line["row"], line["column"]): line["mean"] for line in csv.DictReader(file)}
    assert {column: [found[cell, column] for cell in cells] for _, column in found} == {
        "accuracy (%)": ["10", "30", "50", "90"], "brier": ["0.9", "0.7", "0.5", "0.1"],
        "score (own)": ["1", "3", "5", "9"],
    }  # fmt: skip
    markdown = (tmp_path / "tables" / f"{stem}.md").read_text()
    assert "| temperature | lr | accuracy (%) | brier | score (own) |" in markdown
    assert "| 10 | 0.01 | 90.0 ± 0.0 | 0.1000 ± 0.0000 | 9.0000 ± 0.0000 |" in markdown
    latex = (tmp_path / "tables" / f"{stem}.tex").read_text()
    assert "10 & 0.01 & 90.0 $\\pm$ 0.0 & 0.1000 $\\pm$ 0.0000" in latex
    drawing = (tmp_path / "figures" / f"{stem}.svg").read_text()
    page = (tmp_path / "index.html").read_text()
    for text in (">temperature<", ">lr 0.1<", ">lr 0.01<", ">brier<"):
        assert text in drawing
        assert text in page
    assert "90.0 ± 0.0" in page
    assert ">varies temperature, lr<" in page


def test_an_exhibit_that_would_average_runs_is_a_conflict(tmp_path: Path) -> None:
    """Two optimisers in one experiment of Fig. 3: its lines cannot show both."""
    base = {"experiment": "fig3", "protocol": "p", "gap": 0.0}
    rows = [
        {**row, "cell": {"optimiser": name}}
        for name, weight in (("SGD", 0.5), ("Adam", 0.7))
        for row in [make_row(**base, task_weight=weight)]
    ]
    write_results(tmp_path, rows)
    report = build(tmp_path, tmp_path / "no-store")
    (conflict,) = report.evidence.conflicts
    assert conflict.startswith(f"fig3, protocol p, real data: runs {rows[0]['run']} and ")
    assert conflict.endswith("differ in cell, objective_hash, task_weight: left out")
    assert not (tmp_path / "figures").exists()
    assert conflict in (tmp_path / "index.html").read_text()


def test_real_and_simulated_never_share_a_file(built: Path) -> None:
    real = (built / "tables" / "table2-mnist-real.md").read_text()
    simulated = (built / "tables" / "table2-mnist_short-simulated.md").read_text()
    assert "mnist, real" in real
    assert "simulated" not in real
    assert "mnist, simulated" in simulated
    assert "say nothing about" in simulated


def test_the_page_is_whole_and_needs_nothing_else(built: Path, page: Page) -> None:
    assert page.open == []
    assert [name for name, n in Counter(page.ids).items() if n > 1] == []
    assert all(link.startswith("#") or (built / link).is_file() for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert all(source.startswith(("#", "data:")) for source in page.sources)
    assert (built / "index.html").stat().st_size < 3e6


def test_the_page_has_every_exhibit_and_says_what_its_numbers_are(page: Page) -> None:
    names = {e.name for paper in papers().values() for e in paper.exhibits}
    assert len(names) > 20
    assert names <= set(page.ids)
    text = " ".join(page.text)
    assert "Seeds measure training noise, not data sampling" in text
    assert "ntdh-bench sweep eq25_mnist" in text  # how to run what was not run


def test_the_page_opens_on_what_a_study_puts_in_front(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = Added({"figures/mine.svg": "<svg/>"}, el("p", "a < b"))
    monkeypatch.setattr("ntdh_bench.report.build.studies", lambda: [lambda rows: added])
    build(results, results / "no-store")
    text = (results / "index.html").read_text("utf-8")
    assert text.index("a &lt; b") < text.index('id="summary"')
    read = Page(text)
    assert read.open == []
    assert read.links[:3] == ["#study", "#study", "#summary"]  # the first: skip to the content
    assert (results / "figures" / "mine.svg").read_text() == "<svg/>"

    monkeypatch.setattr("ntdh_bench.report.build.studies", list)
    build(results, results / "no-store")
    assert Page((results / "index.html").read_text("utf-8")).links[:2] == ["#summary", "#summary"]
    assert not (results / "figures" / "mine.svg").exists()


def test_claims_and_strata_are_written(built: Path) -> None:
    claims = list(csv.DictReader((built / "claims.csv").open(newline="")))
    assert {"holds", "not run", "identity"} <= {line["verdict"] for line in claims}
    assert {line["family"] for line in claims} == {"secondary"}
    gates = {line["gate_manipulation"].partition(":")[0] for line in claims}
    assert {"", "passed", "unknown"} <= gates
    assert "| ✓ holds |" in (built / "claims.md").read_text()
    strata = list(csv.DictReader((built / "hypothesis.csv").open(newline="")))
    masked = [line for line in strata if line["moved"] == "feature masks" and line["ncjsd_slope"]]
    assert len(masked) > 5
    assert all(float(line["ncjsd_high"]) < 0 for line in masked)  # by construction
    text, page = ((built / name).read_text() for name in ("hypothesis.md", "index.html"))
    label = "synthetic KD, synthetic_converged, feature masks, gap 0.5"
    assert f"| {label} | simulated | 28 | 5 |" in text
    assert label in page
    assert "feature masks, real data: points for 1 SD of NCJSD" in page
    assert "| inconclusive | real | feature masks | NCJSD |" in text
    effects = list(csv.DictReader((built / "hypothesis_sets.csv").open(newline="")))
    assert {"synthetic", "mnist"} <= {line["dataset"] for line in effects}


def test_a_build_repeats_itself(results: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.*")}
    assert build(results, results / "no-store").rebuilt == 0
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*.*")} == before


def test_only_what_a_change_concerns_is_written(results: Path) -> None:
    store = results / "no-store"
    rows = [
        make_row(experiment="fig7a", protocol="mnist", method="WeightedKL", alpha=a, seed=s)
        for a in (1.0, 2.0)
        for s in range(2)
    ]
    write_results(results, rows)
    assert build(results, store).rebuilt > 3
    times = {path: path.stat().st_mtime_ns for path in results.rglob("*.*")}
    rows[0]["last_test_accuracy"] += 0.1
    write_results(results, rows)
    report = build(results, store)
    changed = {p.name for p in results.rglob("*.*") if times.get(p) != p.stat().st_mtime_ns}
    assert {"fig7a-mnist-real.svg", "fig7a-mnist-real.md", "index.html"} <= changed
    assert not [name for name in changed if name.startswith(("table", "smoke", "mine"))]
    assert report.rebuilt == len(changed - {"fig7a.csv", "manifest.json"})


def test_files_of_experiments_that_are_gone_are_removed(results: Path) -> None:
    csv_path(results, "smoke").unlink()
    mine = results / "tables" / "mine.md"
    mine.write_text("not of a build")
    build(results, results / "no-store")
    assert not (results / "tables" / "smoke-smoke-simulated.md").exists()
    assert mine.exists()
    assert check(results, results / "no-store") == []


def test_a_link_in_results_from_elsewhere_leads_to_no_removal(
    results: Path, tmp_path: Path
) -> None:
    manifest = json.loads((results / "manifest.json").read_text())
    manifest["outputs"]["tables/thesis.md"] = {"sha256": "0" * 64, "inputs": []}
    (results / "manifest.json").write_text(json.dumps(manifest))
    (results / "tables").rename(tmp_path / "mine")
    (results / "tables").symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "thesis.md").write_text("precious")
    build(results, results / "no-store")
    assert (tmp_path / "mine" / "thesis.md").exists()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_one_line(results: Path, make: Callable[[Path], None]) -> None:
    make(results / "records" / "x.csv")
    with pytest.raises(UserError, match=r"x\.csv.*no regular file"):
        build(results, results / "no-store")


def test_text_of_records_is_escaped(tmp_path: Path) -> None:
    nasty = '<script>alert("x")</script> & |'
    rows = [
        make_row(experiment="mine", protocol="a/../b", source="real", method=method, device=nasty)
        for method in ("KD", nasty)
    ]
    write_results(tmp_path, rows)
    build(tmp_path, tmp_path / "no-store")
    page = (tmp_path / "index.html").read_text()
    assert nasty not in page
    assert "&lt;script&gt;alert(" in page
    assert Page(page).open == []
    (name,) = (path.name for path in (tmp_path / "tables").glob("mine*.md"))
    assert re.fullmatch(r"mine-a_\.\._b-real-[0-9a-f]{8}\.md", name)

    for text in (path.read_text() for path in (tmp_path / "tables").glob("mine*.md")):
        assert nasty.replace("|", "\\|") not in text
        assert "&lt;script>alert(" in text


def test_no_two_exhibits_share_a_file() -> None:
    names = [("a b", "c"), ("a_b", "c"), ("a-b", "c"), ("a", "b-c"), ("a", "b c"), (".a", "c")]
    stems = [stem_of(name, protocol, "real") for name, protocol in names]
    assert len(set(stems)) == len(stems)
    assert stems[1:3] == ["a_b-c-real", "a-b-c-real"]
    assert all(re.fullmatch(r"\w[\w.-]*", stem) for stem in stems)


def test_a_trial_is_shown_but_is_no_evidence(tmp_path: Path) -> None:
    """`sweep smoke` in a checkout leaves the committed verdicts as they are."""
    write_results(tmp_path, table2(5))
    before = build(tmp_path, tmp_path / "no-store")
    assert before.hypothesis.strata
    names = ("claims.csv", "hypothesis.csv", "hypothesis_points.csv")
    texts = [(tmp_path / name).read_text() for name in names]
    trial = [dict(row, protocol=TRIAL, experiment="smoke") for row in table2(5)]
    write_results(tmp_path, [*table2(5), *trial])
    after = build(tmp_path, tmp_path / "no-store")
    assert len(after.evidence.all_rows) == 2 * len(before.evidence.all_rows)
    assert [(tmp_path / name).read_text() for name in names] == texts
    assert list((tmp_path / "tables").glob("smoke-smoke-*.md"))


def test_numbers_are_written_as_all_machines_do(built: Path) -> None:
    """With 10 digits: those after depend on how a machine sums."""
    number = re.compile(r"-?\d+(\.\d+)?(e[+-]\d+)?")
    for path in [*built.glob("*.csv"), *(built / "tables").glob("*.csv")]:
        for line in csv.reader(path.open(newline="")):
            for cell in filter(number.fullmatch, line):
                digits = cell.partition("e")[0].replace(".", "").strip("-0")
                assert len(digits) <= 10, f"{path.name}: {cell}"


def test_a_build_without_records_says_not_run(tmp_path: Path) -> None:
    report = build(tmp_path, tmp_path / "no-store")
    assert not any(content.variants for content in report.contents)
    assert {result.verdict for result in report.claims} == {"not run"}
    assert Page((tmp_path / "index.html").read_text()).open == []
    assert check(tmp_path, tmp_path / "no-store") == []


def test_unreadable_rows_are_named(tmp_path: Path) -> None:
    write_results(tmp_path, [make_row(experiment="mine", protocol="p")])
    path = csv_path(tmp_path, "mine")
    header, line = path.read_text().splitlines()
    path.write_text(f"{header}\n{line}\n{line.replace('feed,accuracy,', 'feed,accuracy,many')}\n")
    report = build(tmp_path, tmp_path / "no-store")
    assert len(report.evidence.problems) == 1
    assert "line 3" in report.evidence.problems[0]
    page = (tmp_path / "index.html").read_text()
    assert "Problems with the records (1)" in page
    assert "line 3" in page


def test_the_manifest_names_what_each_file_is_made_from(built: Path) -> None:
    manifest = json.loads((built / MANIFEST).read_text())
    made = manifest["outputs"]["tables/table2-mnist-real.md"]["inputs"]
    assert "records/table2.csv" in made
    assert "records/fig8.csv" not in made
    assert manifest["outputs"]["index.html"]["inputs"] == ["*"]
