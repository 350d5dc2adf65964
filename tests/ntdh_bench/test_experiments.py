from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from ntdh_bench.composition import parse_assignment
from ntdh_bench.errors import UserError
from ntdh_bench.experiments import Experiment, find_experiment, load_experiment, shipped_experiments
from ntdh_bench.records.rows import csv_path, read_rows

BASE = {
    "trainer": {"max_epochs": 50},
    "model": {"distiller": {"class_path": "KD", "init_args": {"temperature": 4.0}}},
}


def experiment(folder: Path, **changes: Any) -> Experiment:
    spec = {
        "title": "A title",
        "base": "base.yaml",
        "protocols": {"long": {"seeds": 2}},
        "grids": [{"axes": {"data.gap": [0, 1]}}],
        **changes,
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    path = folder / "exhibit.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in spec.items() if v}, sort_keys=False))
    return load_experiment(path)


def test_the_product_of_axes_protocols_and_seeds(tmp_path: Path) -> None:
    found = experiment(
        tmp_path,
        protocols={
            "long": {"seeds": 2},
            "short": {"seeds": [7], "overrides": {"trainer.max_epochs": 5}},
        },
        grids=[{"axes": {"data.gap": [0, 1], "weight": {"a": {}, "b": {"model.weight": 2}}}}],
    )
    assert found.name == "exhibit"
    assert not found.missing  # it requires no data set of the catalogue
    assert list(found.protocols) == ["long", "short"]
    assert found.default == ("long",)
    assert len(found.runs) == len({run.hash for run in found.runs}) == 4 * 3
    assert [run.seed for run in found.runs[:4]] == [0, 1, 0, 1]  # seeds vary fastest
    last = found.runs[-1]
    assert last.protocol == "short"
    assert last.labels == {"data.gap": "1", "weight": "b"}
    assert last.config == {
        "trainer": {"max_epochs": 5},
        "model": {**BASE["model"], "weight": 2},
        "data": {"gap": 1},
        "seed_everything": 7,
    }


def test_grids_are_united_and_equal_runs_counted_once(tmp_path: Path) -> None:
    grids = [{"axes": {"data.gap": [0, 1]}}, {"axes": {"data.gap": [1.0, 2]}}]
    assert [run.labels["data.gap"] for run in experiment(tmp_path, grids=grids).runs[::2]] == [
        "0", "1", "2",
    ]  # fmt: skip


def test_the_ratio_is_not_crossed_with_no_mask(tmp_path: Path) -> None:
    masks = {"none": {"mask": None}, "T": {"mask": {"class_path": "FeatureMask"}}}
    axes = {"mask": masks, "mask.init_args.ratio": [0.25, 0.5, 0.75]}
    runs = experiment(tmp_path, grids=[{"axes": axes}], protocols={"p": {"seeds": 1}}).runs
    assert [run.config["mask"] for run in runs] == [
        None,
        *({"class_path": "FeatureMask", "init_args": {"ratio": r}} for r in (0.25, 0.5, 0.75)),
    ]
    assert runs[0].labels == {"mask": "none"}
    assert runs[1].labels == {"mask": "T", "mask.init_args.ratio": "0.25"}


def test_excluded_combinations(tmp_path: Path) -> None:
    axes = {"a": [1, 2], "b": [1, 2, 3]}
    grid = {"axes": axes, "exclude": [{"a": 1, "b": [2, 3]}]}
    runs = experiment(tmp_path, grids=[grid], protocols={"p": {"seeds": 1}}).runs
    assert [tuple(run.labels.values()) for run in runs] == [
        ("1", "1"), ("2", "1"), ("2", "2"), ("2", "3"),
    ]  # fmt: skip


def test_a_grid_may_be_for_some_protocols_alone(tmp_path: Path) -> None:
    grids = [{"axes": {"a": [1]}}, {"axes": {"a": [2]}, "protocols": ["q"]}]
    protocols = {"p": {"seeds": 1}, "q": {"seeds": 1, "overrides": {"b": 3}}}
    runs = experiment(tmp_path, grids=grids, protocols=protocols).runs
    assert [(run.protocol, run.labels["a"]) for run in runs] == [("p", "1"), ("q", "1"), ("q", "2")]


def test_shipped_configs_are_found_by_name(tmp_path: Path) -> None:
    axes = {"mask": {"none": {}, "R": {"config": "overlays/sample_mask"}}}
    runs = experiment(tmp_path, base="mnist_dkd", grids=[{"axes": axes}]).runs
    assert {run.config["model"]["init_args"]["distiller"]["class_path"] for run in runs} == {"DKD"}
    assert runs[-1].config["mask"]["class_path"] == "SampleMask"
    assert "base" not in runs[0].config


def test_files_come_first_then_keys(tmp_path: Path) -> None:
    """A method's file repeats the epochs: the protocol's own must win all the same."""
    other = {"trainer": {"max_epochs": 50}, "model": {"distiller": {"class_path": "DKD"}}}
    (tmp_path / "dkd.yaml").write_text(yaml.safe_dump(other))
    runs = experiment(
        tmp_path,
        protocols={"short": {"overrides": {"trainer.max_epochs": 5}}},
        grids=[{"axes": {"method": {"DKD": {"config": "dkd.yaml"}}}}],
    ).runs
    assert runs[0].config["trainer"] == {"max_epochs": 5}
    assert runs[0].config["model"]["distiller"] == {"class_path": "DKD"}  # KD's arguments are gone


@pytest.mark.parametrize("mask", ["FeatureMask", "ntdh_bench.masks.FeatureMask"])
def test_a_mask_that_needs_a_pair_is_refused_before_anything_runs(
    mask: str, tmp_path: Path
) -> None:
    def runs(teacher: str, removes: str) -> int:
        folder = tmp_path / f"{teacher}-{removes}"  # files are read once
        folder.mkdir()
        overrides = {"mask": {"class_path": mask}, "model.init_args.teacher": teacher}
        grids = [{"overrides": overrides, "axes": {"mask.init_args.removes": [removes]}}]
        return len(experiment(folder, grids=grids).runs)

    with pytest.raises(UserError, match=r"mask.init_args.removes=most_divergent: a FeatureMask"):
        runs("independent", "most_divergent")
    assert runs("independent", "random") == runs("joint", "most_divergent") == 2


@pytest.mark.parametrize("changed", [{"teacher_dist": "ncjsd"}, {"teacher_dist_weight": 0.1}])
def test_a_distance_of_a_teacher_trained_alone_is_refused(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    def runs(teacher: str, **given: Any) -> int:
        overrides = {f"model.init_args.{n}": v for n, v in {"teacher": teacher, **given}.items()}
        grids = [{"axes": {"teacher": {"other": overrides}}}]
        return len(experiment(tmp_path, grids=grids).runs)

    assert runs("joint", **changed) == runs("independent", teacher_dist_weight=1) == 2
    with pytest.raises(UserError, match="teacher=other: teacher_dist and teacher_dist_weight are"):
        runs("independent", **changed)


def test_the_rows_of_2dpass_are_those_of_pmf_s_weights() -> None:
    for name in ("table4_small", "fig13a"):
        experiment = load_experiment(find_experiment(name))
        rows = read_rows(csv_path(Path("results"), name)).rows
        measured = {row["run"] for row in rows if row["method"] == "2DPASS"}
        runs = {run.hash: run.config for run in experiment.runs}
        assert measured
        for run in measured:
            assert runs[run]["model"]["init_args"]["class_weighting"] == "pmf"
            assert runs[run]["trainer"]["gradient_clip_val"] is None


def test_an_edit_of_third_party_code_is_another_run(
    tmp_path: Path, write_module: Callable[[str, str], Path]
) -> None:
    axes = {"method": {"KD": {}, "DIST": {"model.distiller": {"class_path": "own_kd.DIST"}}}}
    grids = [{"axes": axes}]
    write_module("own_kd.py", "class DIST:\n    weight = 1\n")
    before = experiment(tmp_path, grids=grids).runs
    assert [sorted(run.config.get("third_party", {})) for run in before] == [
        [], [], ["own_kd.DIST"], ["own_kd.DIST"],
    ]  # fmt: skip
    assert experiment(tmp_path, grids=grids).runs == before
    write_module("own_kd.py", "class DIST:\n    weight = 2\n")
    after = experiment(tmp_path, grids=grids).runs
    assert [old.hash == new.hash for old, new in zip(before, after, strict=True)] == [
        True, True, False, False,
    ]  # fmt: skip


def test_one_number_written_in_two_ways_is_one_run(tmp_path: Path) -> None:
    (tmp_path / "exhibit.yaml").write_text(
        "title: t\nrequires: synthetic\nprotocols: {p: {seeds: 1}}\n"
        "grids: [{axes: {lr: [1e-3, 0.001, 1.0e-3, +1E-3, 1e0, 1]}}]\n"
    )
    runs = load_experiment(tmp_path / "exhibit.yaml").runs
    assert [run.config["lr"] for run in runs] == [0.001, 1]
    assert parse_assignment("lr=1e-3") == ("lr", 0.001)


def test_a_missing_data_set_has_no_runs(tmp_path: Path) -> None:
    found = experiment(tmp_path, requires="atlantis", base="not_there.yaml")
    assert found.missing
    assert found.runs == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": None}, "title is missing"),
        ({"grdis": [1]}, "unknown key grdis"),
        ({"base": "none.yaml"}, "none.yaml is missing"),
        ({"command": "train"}, "command is 'train': choose from fit, saliency"),
        ({"keep": ["weights"]}, "keep is 'weights'"),
        ({"keep": "curves"}, "keep is text: give a list"),
        ({"keep": ["maps"]}, "keep: maps needs command: saliency"),
        ({"title": ["a"]}, "title is a list: give text"),
        ({"requires": ["mnist"]}, "requires is a list: give text"),
        ({"part_of": 3}, "part_of is 3: give text"),
        ({"base": 3}, "base is 3: give text"),
        ({"base": [{"a": 1}]}, "base is a mapping: give text"),
        ({"protocols": ["p"]}, "protocols is a list: give a mapping"),
        ({"protocols": {1: {}}}, "a key that is no text: put it in quotes"),
        ({"protocols": {"p": 3}}, "protocols.p is 3: give a mapping"),
        ({"protocols": {"p": {"seeds": 2.5}}}, "protocols.p.seeds is a float"),
        ({"protocols": {"p": {"seeds": True}}}, "protocols.p.seeds is a bool"),
        (
            {"protocols": {"p": {"seeds": [0, "1"]}}},
            "protocols.p.seeds is a list: give how many, or a list of whole",
        ),
        ({"protocols": {"p": {"overrides": "x"}}}, "protocols.p.overrides is text: give a mapping"),
        ({"grids": {"axes": {}}}, "grids is a mapping: give a list"),
        ({"grids": ["axes"]}, "grids is text: give a mapping"),
        ({"grids": [{"overrides": "x"}]}, "grids.overrides is text: give a mapping"),
        ({"grids": [{"overrides": {1: 2}}]}, "a key that is no text"),
        ({"grids": [{"overrides": {"config": 3}}]}, "config is 3: give text"),
        ({"grids": [{"axes": ["a"]}]}, "grids.axes is a list: give a mapping"),
        ({"grids": [{"axes": {"a": {"b": [1]}}}]}, "grids.axes.a.b is a list: give a mapping"),
        ({"grids": [{"axes": {"a": [1]}, "exclude": {"a": 1}}]}, "grids.exclude is a mapping"),
        ({"grids": [{"axes": {"a": [1]}, "exclude": ["a"]}]}, "grids.exclude is text"),
        ({"protocols": {"p": {"seeds": 0}}}, "protocols.p.seeds is 0"),
        ({"protocols": {"p": {"seed": 3}}}, "unknown key protocols.p.seed"),
        ({"default": "long"}, "default is text: give a list"),
        ({"default": ["long", "wide"]}, "default is 'wide': choose from long"),
        ({"default": [["long"]]}, "default is a list: choose from long"),
        ({"grids": [{"axes": {"data.gap": 3}}]}, "the axis data.gap is 3"),
        (
            {"grids": [{"axes": {"data.gap": ["x" * 301]}}]},
            "the axis data.gap: a name or a value is no line",
        ),
        ({"grids": [{"axes": {"two\nlines": [1]}}]}, "a name or a value is no line of text"),
        (
            {"grids": [{}, {"overrides": {"model.weight": 2}}]},
            "two grids have the cell without axes, but other settings (model): give one an axis",
        ),
        ({"grids": [{"axis": {}}]}, "unknown key grids.axis"),
        ({"grids": [{"protocols": ["p"]}]}, "grids.protocols is 'p': choose from long"),
        ({"grids": [{"protocols": "long"}]}, "grids.protocols is text: give a list"),
        ({"grids": [{"axes": {"base": ["a.yaml"]}}]}, "base is no setting of runs: name files as"),
        ({"grids": [{"axes": {"a": [1]}, "exclude": [{"a": 2}]}]}, "exclude names a 2"),
        ({"grids": [{"overrides": {"trainer.max_epochs.x": 1}}]}, "nothing can be set below it"),
        ({"grids": [{"overrides": {"model.init_args": [1]}}]}, "model.init_args is a list"),
        ({"grids": [{"overrides": {"mask": {"class_path": 5}}}]}, "mask.class_path is 5"),
        (
            {"grids": [{"overrides": {"data.x": {"class_path": "A", "init_args": 5}}}]},
            "data.x.init_args is 5",
        ),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(UserError, match="yaml") as raised:
        experiment(tmp_path, **changes)
    assert message in str(raised.value)


SQUARE = {"a": list(range(100)), "b": list(range(100))}
MANY = {f"k{number}": number for number in range(2000)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocols": {"p": {"seeds": 10**9}}}, "p.seeds is 1000000000: give at most 20000"),
        ({"protocols": {"p": {"seeds": 10**30}}}, "p.seeds is 1000000"),
        ({"protocols": {"p": {"seeds": [2**32]}}}, "whole numbers from 0 to 4294967295"),
        ({"protocols": {"p": {"seeds": 20_000}}}, "40000 runs"),
        ({"grids": [{"axes": {n: list(range(10)) for n in "abcdefg"}}]}, "20000000 runs"),
        ({"grids": [{"axes": {"a": list(range(5001))}}] * 2}, "20004 runs"),
        ({"protocols": {"../p": {}}}, "the name of a protocol has letters"),
        ({"protocols": {"=p": {}}}, "the name of a protocol has letters"),
        ({"protocols": {"p" * 81: {}}}, "at most 80"),
        ({"grids": [{"axes": SQUARE, "exclude": [{"a": 1, "b": 2}] * 1000}]}, "values to merge"),
        ({"grids": [{"axes": SQUARE, "overrides": {"data": MANY}}]}, "values to merge"),
        ({"grids": [{"axes": {"x": {"y": {"data": MANY}}, **SQUARE}}]}, "values to merge"),
        ({"grids": [{"overrides": MANY}]}, "2000 settings"),
        ({"grids": [{"overrides": {".".join("a" * 5000): 1}}]}, "up to 4999 dots"),
        ({"grids": [{"overrides": {"a": date(2026, 1, 1)}}]}, "a date, which is no text or number"),
        ({"grids": [{"overrides": {"a": {1: 2}}}]}, "a key that is no text"),
    ],
)
def test_what_is_too_large_is_refused_before_it_is_expanded(
    tmp_path: Path, changes: Any, message: str
) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=r"exhibit\.yaml") as raised:
        experiment(tmp_path, **changes)
    assert message in str(raised.value)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "content",
    [
        b"\xd9\xed\xf8\xc2\xdfn\xa5",
        b"title: &a [*a]",
        b"[" * 50_000,
        b"title: 2026-01-01",
        b"\xff\xfet\x00i\x00",
        b"a: !!python/object/apply:os.system [x]",
        b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n" + b"d: [" + b"*c, " * 90_000 + b"]",
    ],
)
def test_a_file_that_is_no_experiment_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.yaml: ") as raised:
        load_experiment(path)
    assert len(str(raised.value)) <= 400
    with pytest.raises(UserError, match=r"bad\.yaml: "):
        experiment(tmp_path, grids=[{"overrides": {"config": str(path)}}])


@pytest.mark.parametrize("key", ["base", "config"])
@pytest.mark.parametrize(
    "content", ["sesame", "- sesame\n- b", "a: [sesame", "sesame: [1]: 2", "trainer: sesame"]
)
def test_the_content_of_other_files_is_not_shown(tmp_path: Path, key: str, content: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text(content)
    overrides = {"trainer.x": 1, **({"config": str(secret)} if key == "config" else {})}
    base = str(secret) if key == "base" else "base.yaml"
    with pytest.raises(UserError, match=r"secret: |trainer is text") as raised:
        experiment(tmp_path, base=base, grids=[{"overrides": overrides}])
    assert "sesame" not in str(raised.value)


def test_shipped_experiments_are_found_by_name() -> None:
    assert {"smoke", "table1", "table2", "fig3", "fig8"} <= shipped_experiments().keys()
    assert find_experiment("fig3").name == "fig3.yaml"
    with pytest.raises(UserError, match=r"no experiment fig99: .* a shipped one, such as fig9b"):
        find_experiment("fig99")


@pytest.mark.parametrize("name", ["a" * 5000, ".".join("a" * 3000), "/dev/zero"])
def test_names_that_are_none_take_no_time(tmp_path: Path, name: str) -> None:
    changes = {"model.init_args.teacher_checkpoint": name, "model.class_path": name}
    started = time.monotonic()
    (run, *_) = experiment(tmp_path, grids=[{"overrides": changes}]).runs
    assert "given_teacher" not in run.config
    assert time.monotonic() - started < 5
