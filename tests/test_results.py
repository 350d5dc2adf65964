from __future__ import annotations

import re
from pathlib import Path

import pytest

from ntdh_bench.experiments import load_shipped
from ntdh_bench.records.collecting import orphans
from ntdh_bench.records.columns import COLUMNS
from ntdh_bench.records.rows import csv_path, read_rows
from ntdh_bench.report.check import check


def test_the_committed_results_are_up_to_date(tmp_path: Path) -> None:
    """After a change of records, sweep configs or the paper's numbers: run `ntdh-bench tables`."""
    assert check(Path("results"), tmp_path) == []
    assert list(Path("results/records").glob("*.csv"))


def test_the_runs_of_committed_records_are_still_those_of_their_experiments() -> None:
    rows = 0
    for experiment in load_shipped():
        path = csv_path(Path("results"), experiment.name)
        found = read_rows(path).rows if path.is_file() else []
        assert orphans(experiment, found) == []
        rows += len(found)
    assert rows > 4000


def test_the_readme_has_the_study_in_five_lines_and_one_figure() -> None:
    """The lines are those of the study as it stands: after new runs, copy them again."""
    readme = Path("README.md").read_text()
    results = readme[readme.index("\n## Results") : readme.index("\n## Limits")]
    ((path, quote),) = re.findall(r"<!-- from (\S+) -->\n(.*?)<!-- end -->", results, re.DOTALL)
    study = [line for line in Path(path).read_text().splitlines() if line.startswith("- ")]
    assert quote.split("\n") == ["", *study[:5], "", ""]
    assert len(re.findall(r"!\[[^]]+\]\(results/[^)]+\)", results)) == 1


@pytest.mark.parametrize("name", ["README.md", "results/README.md", "results/first_runs.md"])
def test_links_to_results_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^):#]+)\)", Path(name).read_text())
    assert links
    assert [link for link in links if not (Path(name).parent / link).exists()] == []


def test_intervals_in_sentences_are_those_of_the_results() -> None:
    found = re.findall(r"-?\d+\.\d+ \[[^\]]+\]", Path("results/first_runs.md").read_text())
    assert found
    files = [path.read_text() for path in Path("results").glob("*.md") if "runs" not in path.name]
    assert [interval for interval in found if not any(interval in text for text in files)] == []


def test_every_column_is_described() -> None:
    readme = Path("results/README.md").read_text()
    named = {word for code in re.findall(r"`([^`]+)`", readme) for word in code.split(", ")}
    metrics = {
        f"…_{name.split('_', 2)[2]}" for name in COLUMNS if name.startswith(("last_", "best_"))
    }
    others = {name for name in COLUMNS if not name.startswith(("last_", "best_"))}
    assert metrics | others <= named
