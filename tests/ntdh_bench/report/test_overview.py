"""An experiment of methods on several data sets, from rows to every file of the report."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from ntdh_bench.records.columns import Row
from ntdh_bench.report.build import build
from ntdh_bench.report.cells import MixedRuns
from ntdh_bench.report.overview import Overview, overview
from ntdh_bench.report.ranks import Ranking, rank
from ntdh_bench.report.tables import Table
from tests.ntdh_bench.report.rows import make_row, with_derived, write_results
from tests.typed import some

METHODS = {"without_kd": 0.60, "matched": 0.605, "KD": 0.62, "NKD": 0.63, "C2KD": 0.61}
SETS = ("utd_mhad", "wiki", "bdgp", "lis", "av_mnist", "houston")


def method_row(method: str, dataset: str, seed: int, **given: Any) -> Row:
    arm = method if method in ("without_kd", "matched") else "kd"
    own = {"baseline_hash": "own", "task_weight": None} if method == "C2KD" else {}
    row = make_row(
        experiment="suite", protocol=dataset, dataset=dataset, seed=seed, arm=arm, method=method
    )
    score = METHODS[method] + 0.05 * SETS.index(dataset) + 0.001 * seed * (1 + len(method) % 3)
    scores = {"last_test_accuracy": score, "last_test_score": score}
    weights = {"task_weight": 2.0 if arm == "matched" else 1.0, "distill_weight": 1.0}
    return {**row, **scores, **weights, **own, "cell": {"method": method}, **given}


def suite(
    sets: Iterable[str] = SETS, seeds: int = 3, keep: Callable[[str, str, int], bool] | None = None
) -> list[Row]:
    return [
        method_row(method, dataset, seed)
        for dataset in sets
        for method in METHODS
        for seed in range(seeds)
        if keep is None or keep(method, dataset, seed)
    ]


def shown(rows: list[Row]) -> Overview:
    return some(overview(with_derived(rows), "drawing"))


def numbers(table: Table) -> dict[tuple[str, str], float]:
    return {
        (line.labels[0], column.full): cell.estimate.mean
        for line in table.lines
        for column, cell in zip(table.columns, line.cells, strict=True)
        if cell and cell.estimate
    }


def test_scores_and_gains_by_data_set_and_ranks_over_them() -> None:
    rows = suite()
    scores, gains, matched, over = shown(rows).tables
    assert [column.name for column in scores.columns] == list(SETS)
    assert [line.labels[0] for line in scores.lines] == ["w/o KD", "matched", "KD", "NKD", "C2KD"]
    assert scores.title == "Accuracy (%)"
    for dataset in SETS:
        mean = {
            method: fmean(
                row["last_test_score"]
                for row in rows
                if (row["cell"]["method"], row["dataset"]) == (method, dataset)
            )
            for method in METHODS
        }
        assert numbers(scores)["NKD", dataset] == pytest.approx(mean["NKD"])
        for method in ("KD", "C2KD"):  # a module of its own as well
            gain = mean[method] - mean["without_kd"]
            assert numbers(gains)[method, dataset] == pytest.approx(gain)
            gain = mean[method] - mean["matched"]
            assert numbers(matched)[method, dataset] == pytest.approx(gain)
    assert ("w/o KD", "wiki") not in numbers(gains)
    assert [line.labels[0] for line in over.lines] == ["NKD", "KD", "C2KD", "matched", "w/o KD"]
    assert numbers(over)["NKD", "mean rank"] == 1
    of_sets = fmean(numbers(gains)["KD", dataset] for dataset in SETS)
    assert numbers(over)["KD", "gain over w/o KD = equal task, points"] == pytest.approx(of_sets)
    # All six data sets gain: 2 / 2^6, for as many methods as there are beside w/o KD.
    for method in ("matched", "KD", "NKD", "C2KD"):
        assert numbers(over)[method, "gain over w/o KD = equal task, p, Holm"] == pytest.approx(
            4 / 32
        )
    assert numbers(over)["NKD", "gain over matched, p, Holm"] == pytest.approx(3 / 32)
    assert over.note == "Mean ± 95 % interval over 6 data sets."
    assert scores.note == "Mean ± 95 % interval over 3 seeds; bold: best of its column."


def test_it_says_what_the_test_found_and_what_it_can_tell() -> None:
    found = shown(suite())
    compared, test, limits = found.notes
    assert "5 methods over 6 data sets (utd_mhad, wiki, bdgp, lis, av_mnist, houston)" in compared
    assert test.startswith("Friedman's test: χ²(4) = 24.00, p < 0.001: some methods differ. Nem")
    assert "critical difference at 5 % is 2.49: bars join" in test
    assert "With 6 data sets and 5 methods it tells mean ranks apart that differ by 2.49" in limits
    (drawing,) = found.drawings
    assert "critical difference 2.49" in drawing


def test_no_difference_concludes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def tied(scores: Mapping[str, Mapping[str, float]]) -> Ranking:
        return rank({name: dict.fromkeys(own, 0.5) for name, own in scores.items()})

    monkeypatch.setattr("ntdh_bench.report.overview.rank", tied)
    assert "p = 1.000: no method is shown to differ from another, so" in shown(suite()).notes[1]


def test_few_data_sets_are_ranked_but_not_tested() -> None:
    found = shown(suite(SETS[:4]))
    assert found.notes[1:] == (
        "Nothing is tested: Friedman's test is done from 5 data sets and 3 methods on.",
    )
    assert numbers(found.tables[-1])["NKD", "mean rank"] == 1
    assert "critical" not in found.drawings[0]
    assert not [column for column in found.tables[-1].columns if column.name.startswith("p,")]


def test_what_lacks_runs_is_left_out_and_named() -> None:
    """A rare method before a data set; in the tables by data set all of it is there."""

    def keep(method: str, dataset: str, seed: int) -> bool:
        return (method, dataset) != ("KD", "bdgp") and (method != "NKD" or dataset in SETS[:3])

    found = shown(suite(keep=keep))
    assert "4 methods over 5 data sets" in found.notes[0]
    assert found.notes[1] == ("Left out of the ranks: NKD (on 3 of 6 data sets); bdgp (lacks KD).")
    assert ("NKD", "bdgp") in numbers(found.tables[0])
    assert "NKD" not in {line.labels[0] for line in found.tables[-1].lines}


def test_a_data_set_counts_by_the_seeds_that_all_methods_have_there() -> None:
    """A method with a lucky seed more is not ahead by that."""
    over = shown([*suite(), method_row("KD", "wiki", 9, last_test_score=1.0)]).tables[-1]
    assert numbers(over)["NKD", "mean rank"] == 1
    apart = suite(
        keep=lambda method, dataset, seed: dataset != "wiki" or (seed > 0) == (method == "KD")
    )
    assert shown(apart).notes[1] == "Left out of the ranks: wiki (lacks a seed that all have)."


def test_protocols_of_one_data_set_count_as_one() -> None:
    """Its two directions are no two samples of data sets."""
    back = [{**row, "protocol": f"{row['dataset']}_back"} for row in suite()]
    found = shown([*suite(), *back])
    assert "over 6 data sets" in found.notes[0]
    assert len(found.tables[0].columns) == 12
    no_back = [row for row in back if row["cell"]["method"] != "KD" or row["dataset"] != "wiki"]
    assert shown([*suite(), *no_back]).notes[1] == "Left out of the ranks: wiki (lacks KD)."


def test_other_experiments_have_none() -> None:
    rows = suite()
    masked = [{**row, "cell": {**row["cell"], "mask": str(row["seed"] % 2)}} for row in rows]
    trial = [{**row, "protocol": "smoke"} for row in rows]
    for other in (suite(SETS[:1]), masked, trial, []):
        assert overview(with_derived(other), "drawing") is None


def test_runs_that_cannot_be_told_apart_are_not_averaged() -> None:
    twice = {**method_row("KD", "wiki", 0), "run": "another", "experiment": "mine"}
    with pytest.raises(MixedRuns, match="seed 0 stand in one place"):
        shown([*suite(), twice])


def test_every_file_has_it(tmp_path: Path) -> None:
    """Real and simulated data apart; a table of its own for every data set."""
    simulated = [{**row, "source": "simulated", "run": f"s{row['run'][1:]}"} for row in suite()]
    write_results(tmp_path, [*suite(), *simulated[: len(simulated) // 2]])
    report = build(tmp_path, tmp_path / "no-store")
    assert report.evidence.problems == []
    text = (tmp_path / "tables" / "suite-real.md").read_text()
    assert text.startswith("# Experiment. suite (all protocols, real data)\n")
    for part in ("## Accuracy (%)", "## Gain over matched (points)", "Friedman's test: χ²(4)"):
        assert part in text
    assert "Nothing is tested" in (tmp_path / "tables" / "suite-simulated.md").read_text()
    lines = list(csv.DictReader((tmp_path / "tables" / "suite-real.csv").open(newline="")))
    assert [line["n"] for line in lines if line["column"] == "mean rank"] == ["6"] * 5
    assert "critical difference 2.49" in (tmp_path / "figures" / "suite-real.svg").read_text()
    own = (tmp_path / "tables" / "suite-wiki-real.md").read_text()
    gains = "gain over w/o KD = equal task (points) | gain over matched (points)"
    assert f"| method | accuracy (%) | {gains} |" in own
    page = (tmp_path / "index.html").read_text()
    assert '<a href="#experiments">Experiments</a>' in page
    assert page.count("<h4>All protocols ") == 2
    assert "The unit is the data set" in page
    assert report.contents[-1].exhibit.name == "suite"
