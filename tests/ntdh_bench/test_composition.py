from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ntdh_bench.composition import (
    change,
    find_config,
    merge,
    parse_assignment,
    read_config,
    same_class,
    shipped_configs,
)
from ntdh_bench.errors import UserError


def write(folder: Path, **files: Any) -> Path:
    """Write YAML files; returns the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / f"{name}.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_config_lies_over_its_bases(tmp_path: Path) -> None:
    """Relative to the file that names them, later ones over earlier ones, classes as in merging."""
    write(
        tmp_path / "family",
        root={"trainer": {"devices": 1, "max_epochs": 50}, "data": {"root": "here"}},
        pair={"base": "root.yaml", "model": {"distiller": {"class_path": "KD", "T": 4}}},
        short={"trainer": {"max_epochs": 5}, "mask": {"class_path": "FeatureMask"}},
    )
    path = write(
        tmp_path,
        dkd={
            "base": ["family/pair.yaml", "family/short.yaml"],
            "model": {"distiller": {"class_path": "DKD"}},
            "mask": None,
        },
    )
    assert read_config(path) == {
        "trainer": {"devices": 1, "max_epochs": 5},
        "data": {"root": "here"},
        "model": {"distiller": {"class_path": "DKD"}},
        "mask": None,
    }


def test_a_base_is_merged_whole_before_it_lies_over_another(tmp_path: Path) -> None:
    """Else DKD, which the second one replaces, would take the first one's arguments away."""
    path = write(
        tmp_path,
        first={"distiller": {"class_path": "KD", "init_args": {"temperature": 4.0}}},
        below={"distiller": {"class_path": "DKD"}},
        second={"base": "below.yaml", "distiller": {"class_path": "KD"}},
        config={"base": ["first.yaml", "second.yaml"]},
    )
    assert read_config(path)["distiller"]["init_args"] == {"temperature": 4.0}


def test_one_base_of_several_is_read_for_each(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        root={"x": 1},
        left={"base": "root.yaml", "y": 2},
        right={"base": "root.yaml", "z": 3},
        config={"base": ["left.yaml", "right.yaml"]},
    )
    assert read_config(path) == {"x": 1, "y": 2, "z": 3}


CHAIN = {**{f"a{n}": {"base": f"a{n + 1}"} for n in range(60)}, "a60": {}, "a": {"base": "a0"}}
BOMB = {**{f"a{n}": {"base": [f"a{n + 1}"] * 9} for n in range(9)}, "a9": {}, "a": {"base": "a0"}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": {"base": "a.yaml"}}, r"a\.yaml: its bases lead back to it: take one `base` of them"),
        ({"b": {"base": "a.yaml"}, "a": {"base": "./b.yaml"}}, "its bases lead back to it"),
        ({"a": {"base": "none.yaml"}}, r"none\.yaml is missing; give a YAML file or a name of"),
        ({"a": {"base": 3}}, r"a\.yaml: base is 3: give text"),
        ({"a": {"base": {"b": 1}}}, r"a\.yaml: base is a mapping: give text"),
        ({"b": {}, "a": {"base": ["b", 1]}}, r"base is 1: give text"),
        ({"a": {"base": "."}}, "is no regular file"),
        ({"a": {"base": "x" * 5000}}, "is missing"),
        ({"a": {"base": "x\0y"}}, "is missing"),
        ({"a": {"base": "/dev/zero"}}, "/dev/zero is no regular file"),
        ({"b": "sesame", "a": {"base": "b.yaml"}}, r"b\.yaml: the file is text: give a mapping"),
        ({"b": "sesame: [", "a": {"base": "b.yaml"}}, r"b\.yaml: not valid YAML"),
        (CHAIN, r"a\.yaml: more than 50 files by way of `base`"),
        (BOMB, r"a\.yaml: more than 50 files by way of `base`"),
    ],
)
def test_a_base_that_cannot_be_is_one_line(
    files: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, **files)
    with pytest.raises(UserError, match=message) as raised:
        read_config(path)
    assert "sesame" not in str(raised.value)


def test_what_older_runs_say_of_retraining_is_the_fill_of_their_mask(tmp_path: Path) -> None:
    def mask(**given: Any) -> dict[str, Any]:
        return {"mask": {"class_path": "FeatureMask", "init_args": given}}

    old = write(tmp_path, trained=mask(ratio=0.5, retrain=True))
    assert read_config(old) == mask(ratio=0.5, fill="retrain")
    assert read_config(write(tmp_path, a=mask(retrain=False))) == mask(fill="zero")
    over = write(tmp_path, b={"base": "trained", **mask(fill="mean")})
    assert read_config(over) == mask(ratio=0.5, fill="mean")


def test_configs_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shipped ones from any folder; a file of the name that is there wins."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ravdess_kd").mkdir()  # a run's, say
    for name in ("ravdess_kd", "overlays/feature_mask", "base/mnist"):
        assert find_config(name) == shipped_configs()[name]
    own = write(tmp_path, ravdess_kd={"base": "mnist_sp", "trainer": {"max_epochs": 1}})
    assert find_config("ravdess_kd").samefile(own)
    assert read_config(own)["model"]["init_args"]["distiller"]["class_path"] == "SP"
    (tmp_path / "mnist_sp").write_text("seed_everything: 3")
    assert read_config(own) == {"seed_everything": 3, "trainer": {"max_epochs": 1}}
    for wrong, near in (("ravdes_dkd", "ravdess_dkd"), ("configs/mnist_dkd.yaml", "mnist_dkd")):
        with pytest.raises(UserError, match=f"{wrong} is missing; .*, such as {near}"):
            find_config(wrong)


def test_merging_changes_neither_argument() -> None:
    old, new = {"a": {"b": 1, "c": 2}}, {"a": {"b": [3]}}
    merged = merge(old, new)
    assert merged == {"a": {"b": [3], "c": 2}}
    merged["a"]["b"].append(4)
    assert old == {"a": {"b": 1, "c": 2}}
    assert new == {"a": {"b": [3]}}


def test_another_class_takes_no_old_arguments() -> None:
    old = {"distiller": {"class_path": "KD", "init_args": {"temperature": 1.0}}}
    kept = [{"class_path": "KD"}, {"class_path": "ntdh_bench.distillers.KD"}, "KD"]
    assert all(merge(old, {"distiller": new})["distiller"]["init_args"] for new in kept)
    assert merge(old, {"distiller": "CRD"}) == {"distiller": "CRD"}
    assert merge(old, {"distiller": {"class_path": "CRD"}}) == {"distiller": {"class_path": "CRD"}}


def test_a_module_of_a_pair_takes_over_what_is_of_the_networks() -> None:
    pair = {"teacher_network": {"class_path": "A"}, "optimizer": "SGD", "ignore_index": 3}
    own = {"distiller": {"class_path": "KD"}, "task_weight": 0.5, "teacher": "joint", "lam": None}
    old = {"class_path": "DistillationModule", "init_args": {**pair, **own}}
    new = {"class_path": "MutualModule", "init_args": {"temperature": 2.0}}
    mutual = merge(old, new)
    assert mutual == {**new, "init_args": {**pair, "temperature": 2.0}}
    back = merge(mutual, {"class_path": "ntdh_bench.models.DistillationModule"})
    assert back["init_args"] == pair
    changed = change({"model": old}, [{"model.class_path": "MutualModule"}], Path("x.yaml"))
    assert changed["model"]["init_args"] == pair
    for other in ("PMFModule", "own.MutualModule"):
        assert merge(old, {"class_path": other}) == {"class_path": other}
    assert old["init_args"] == {**pair, **own}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("KD", "ntdh_bench.distillers.KD", True),
        ("torch.optim.SGD", "torch.optim.sgd.SGD", True),
        ("torch.optim.SGD", "my.SGD", False),
        ("lab.first.Net", "lab.second.Net", False),
        ("lab.Net", "laboratory.Net", False),
        ("KD", "DKD", False),
        ("KD", None, False),
    ],
)
def test_one_class_has_several_names(one: str, other: str | None, same: bool) -> None:
    assert same_class(one, other) is same
    assert same_class(other, one) is same


def test_a_dotted_class_path_drops_arguments_as_a_file_does() -> None:
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}
    changes = {"optimizer.init_args.lr": 0.2, "optimizer.class_path": "torch.optim.Adam"}
    changed = change({"optimizer": optimizer}, [changes], Path("x.yaml"))["optimizer"]
    assert changed == {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.2}}
    same = change({"optimizer": optimizer}, [{"optimizer.class_path": "SGD"}], Path("x.yaml"))
    assert same["optimizer"]["init_args"] == optimizer["init_args"]


def test_overrides_from_the_command_line() -> None:
    assert parse_assignment("data.init_args.gap=0.5") == ("data.init_args.gap", 0.5)
    assert parse_assignment("mask=null") == ("mask", None)
    for bad in ("gap", "=1", "a b=1", "a=[", "a=2026-01-01", "a=&a [*a]", "a={1: 2}"):
        with pytest.raises(UserError, match=r"dotted\.key=value"):
            parse_assignment(bad)
    assert change({}, [{"a.b": 1}], Path()) == {"a": {"b": 1}}
