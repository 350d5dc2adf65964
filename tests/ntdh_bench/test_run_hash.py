from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from ntdh_bench import run_hash as run_hash_module
from ntdh_bench.cache import digest
from ntdh_bench.run_hash import pin, run_hash, run_hashes
from tests.third_party import forget_code


def test_hashes_of_records_that_are_older_than_a_default() -> None:
    def config(
        name: str = "DistillationModule", epochs: int | None = None, **adamw: float
    ) -> dict[str, Any]:
        schedule = {} if epochs is None else {"init_args": {"epochs": epochs}}
        optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1, **adamw}}
        arguments = {
            "optimizer": optimizer,
            "scheduler": {"class_path": "WarmupCosine", **schedule},
        }
        model = {"class_path": name, "init_args": arguments}
        return {"trainer": {"max_epochs": 50}, "model": model}

    def hashed(**settings: Any) -> str:
        return run_hash(config(**settings))

    def recorded(**settings: Any) -> str:
        return digest(config(**settings))

    assert hashed(weight_decay=0.0) == recorded(epochs=50)  # as it was before both
    assert hashed() == hashed(epochs=50) == hashed(weight_decay=0.01) != hashed(weight_decay=0.0)
    assert hashed(epochs=40) != hashed()
    assert hashed(name="PMFModule") == recorded(name="PMFModule", epochs=50)


def test_hashes_are_stable() -> None:
    config = {"trainer": {"max_epochs": 2}, "data": {"gap": 0.5}}
    same = {"data": {"gap": 0.5}, "trainer": {"max_epochs": 2.0}}
    assert run_hash(config) == run_hash(same) == "9f68b7d86809e655"
    assert run_hash({**config, "seed_everything": 1}) != run_hash(config)


def test_the_hashes_of_seeds_are_those_of_their_configs() -> None:
    config = {"trainer": {"max_epochs": 2.0}, "mask": {"class_path": "FeatureMask"}}
    seeds = (3, 0)
    assert run_hashes(config, seeds) == [run_hash({**config, "seed_everything": n}) for n in seeds]


def test_a_changed_default_changes_the_hashes_of_runs_that_rely_on_it() -> None:
    def hash_of(**init_args: Any) -> str:
        model = {"class_path": "TwoDPASSModule", "init_args": {"seed": 0, **init_args}}
        return run_hash({"model": model})

    before = digest({"model": {"class_path": "TwoDPASSModule", "init_args": {"seed": 0}}})
    assert hash_of(class_weighting="pmf") == before
    assert hash_of() == hash_of(class_weighting="2dpass") != before
    assert hash_of(class_weighting="2dpass") != hash_of(class_weighting="pmf")


@pytest.mark.parametrize("name", ["FeatureMask", "ntdh_bench.masks.FeatureMask"])
def test_a_fill_is_hashed_as_the_retraining_that_it_once_was(name: str) -> None:
    def mask(**given: Any) -> dict[str, Any]:
        return {"mask": {"class_path": name, "init_args": {"ratio": 0.5, **given}}}

    assert run_hash(mask()) == run_hash(mask(fill="zero")) == digest(mask())
    assert run_hash(mask(fill="retrain")) == digest(mask(retrain=True))
    assert len({run_hash(mask(fill=fill)) for fill in ("zero", "rescale", "mean", "retrain")}) == 4
    bare = {"mask": {"class_path": name}}
    assert run_hash(bare) == digest(bare)


def test_an_argument_of_the_trainer_that_is_null_is_one_left_out() -> None:
    given, left_out = {"trainer": {"devices": 1, "max_time": None}}, {"trainer": {"devices": 1}}
    assert run_hash(given) == run_hash(left_out)


@pytest.mark.parametrize(("part", "argument"), [("model", "teacher_checkpoint"), ("data", "file")])
def test_another_content_of_a_given_file_is_another_run(
    tmp_path: Path, part: str, argument: str
) -> None:
    file = tmp_path / "given"
    config = {part: {"init_args": {argument: str(file)}}}
    assert pin(config) == config
    hashes = set()
    for content in ("one", "two"):
        file.write_text(content)
        forget_code()
        hashes.add(run_hash(pin(config)))
    assert len(hashes) == 2


def test_classes_whose_arguments_changed_are_there() -> None:
    """A class that is renamed would silently get new hashes."""
    for name in [*run_hash_module._LATER, *run_hash_module._FORMER]:
        module, _, kind = name.rpartition(".")
        assert hasattr(importlib.import_module(module), kind), name
