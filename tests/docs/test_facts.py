"""What the directives of the documentation print."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from ntdh_bench.datasets import catalogue

HEAD = (
    "dataset,protocol,teacher,method,gain,gain_low,gain_high,gain_n,lead,lead_low,lead_high,helped"
)
LINES = [
    "wiki,wiki,one modality,KD,1.0,0.5,1.5,10,-3,-4,-2,True",
    "wiki,wiki_reverse,one modality,KD,3.0,-1,7,10,2,1,3,",
    "bdgp,bdgp,one modality,KD,-1.0,-2,-0.5,10,,,,False",
    "bdgp,bdgp,both,DIST,0.25,,,1,,,,",
]

CURVES = [
    "wiki,ScaleTarget,16,2,1,3,0.1,0.3",
    "wiki,ScaleTarget,0,-1,,,0.1,0.2",
    "bdgp,ScaleTarget,0,0.5,0,1,0.4,0.5",
    "bdgp,ShiftTarget,8,9,8,10,0,0",
]


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("facts", "docs/extensions/facts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    guide = tmp_path / "guide.csv"
    guide.write_text("\n".join([HEAD, *LINES, ""]))
    monkeypatch.setattr(module, "GUIDE", guide)
    curves = tmp_path / "curves.csv"
    curves.write_text(
        "\n".join(["protocols,intervention,dose,gain,gain_low,gain_high,ncjsd,tcjsd", *CURVES, ""])
    )
    monkeypatch.setattr(module, "CURVES", curves)
    return module


def rows(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_entry_of_a_data_set_is_the_catalogues(facts: ModuleType) -> None:
    for info in catalogue():
        shown = dict(rows(facts.dataset([info.name])))
        assert shown["**licence**"] == info.licence
        way = shown["**how to get it**"]
        assert way.replace("`", "") == info.how_to_get
        assert "--" not in re.sub(r"`[^`]*`", "", way)  # outside of code it would be a dash
        assert all(name in shown["**modalities**"] for name in info.modalities)
    assert dict(rows(facts.dataset(["wiki"])))["**published samples**"] == "2,866"


def test_configs_of_a_data_set_have_their_titles(facts: ModuleType) -> None:
    shown = dict(rows(facts.configs(["wiki"])))
    assert shown.keys() == {"`wiki_kd`", "`wiki_reverse_kd`"}
    first = Path("configs/wiki_kd.yaml").read_text().partition("\n")[0]
    assert first == f"# {shown['`wiki_kd`']}"


def test_a_data_set_without_configs_is_an_error(facts: ModuleType) -> None:
    with pytest.raises(ValueError, match="no config is called wikis_"):
        facts.configs(["wikis"])


def test_gains_of_a_method_are_by_data_set_the_largest_first(facts: ModuleType) -> None:
    assert rows(facts.gains_of(["KD"])) == [
        ["wiki_reverse", "3.00 [-1.00, 7.00]", "10", "2.0", "open"],
        ["wiki", "1.00 [0.50, 1.50]", "10", "-3.0", "helped"],
        ["bdgp", "-1.00 [-2.00, -0.50]", "10", "–", "harmed"],
    ]


def test_gains_on_a_data_set_are_by_method(facts: ModuleType) -> None:
    names = [row[0] for row in rows(facts.gains_on(["bdgp"]))]
    assert names == ["DIST (teacher: both)", "KD"]


def test_what_was_not_run_is_said(facts: ModuleType) -> None:
    assert facts.gains_of(["RKD"]) == ["*Not run yet.*"]


def test_means_are_over_data_sets_not_over_settings(facts: ModuleType) -> None:
    """wiki 2 (of two settings), bdgp -1; t of one degree of freedom: 12.706."""
    kd, dist = rows(facts.methods([]))
    assert dist == ["DIST", "1", "0.25", "0", "0", "1"]
    half = 12.7062 * 1.5
    assert kd == ["KD", "2", f"0.50 [{0.5 - half:.2f}, {0.5 + half:.2f}]", "1", "1", "3"]


def test_a_bar_in_a_cell_ends_no_column(facts: ModuleType) -> None:
    assert facts.table(["a"], [["x | y"]])[2] == "| x \\| y |"


def test_doses_show_what_moved_and_the_gain_at_each(facts: ModuleType) -> None:
    lines = facts.doses(["ScaleTarget"])
    assert lines[0] == "| data set | NCJSD | TCJSD | gain at 0 | gain at 16 |"
    assert rows(lines) == [
        ["wiki", "0.100 → 0.100", "0.200 → 0.300", "-1.00", "2.00 ± 1.00"],
        ["bdgp", "0.400 → 0.400", "0.500 → 0.500", "0.50 ± 0.50", "–"],
    ]
