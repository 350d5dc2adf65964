from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ntdh_bench.composition import Config
from ntdh_bench.datasets import find_dataset
from ntdh_bench.errors import UserError
from ntdh_bench.records.identity import baseline_hash, config_hash
from ntdh_bench.runs import Run
from ntdh_bench.runs.identity import _without, check_resume, identify
from ntdh_bench.runs.teacher import teacher_key
from tests.helpers import flags

QUICKSTART = Path("configs/quickstart.yaml")


def loaded(words: Sequence[str]) -> Run:
    run = Run.parse("fit", words)
    run.load_data("fit")
    return run


def test_identity_leaves_out_paths_and_workers(tmp_path: Path) -> None:
    one = loaded(flags(QUICKSTART, tmp_path, "--mask.cache_dir", str(tmp_path / "a")))
    two = loaded(flags(QUICKSTART, tmp_path, "--data.num_workers", "1"))
    other = loaded(flags(QUICKSTART, tmp_path, "--mask.ratio", "0.3"))
    assert one.identity == two.identity
    assert one.identity != other.identity


def test_a_file_of_ones_own_counts_by_its_content(tmp_path: Path) -> None:
    """Moved, it is the same data: a run can be resumed, and its teacher is found."""
    sample = find_dataset("pairs").sample
    assert sample is not None
    for name in ("one", "two"):
        sample(tmp_path / name, 0)
    places = [tmp_path / name / "pairs" / "pairs.npz" for name in ("one", "two")]
    sides = ["--data.teacher", "first", "--data.student", "second"]
    one, two = (
        loaded(flags(Path("configs/pairs_kd.yaml"), tmp_path, "--data.file", str(path), *sides))
        for path in places
    )
    assert one.identity == two.identity
    assert one.identity["data"]["fingerprint"]


def test_settings_that_came_later_leave_hashes_as_they_were(tmp_path: Path) -> None:
    """Records and cached teachers of earlier versions are still found."""
    weights = ["--model.class_weights", "[0.5, 1, 1, 1]"]
    before = loaded(flags(QUICKSTART, tmp_path))
    weighted = loaded(flags(QUICKSTART, tmp_path, *weights))
    assert "class_weights" not in before.identity["model"]["init_args"]
    assert weighted.identity["model"]["init_args"]["class_weights"] == [0.5, 1, 1, 1]
    assert teacher_key(before) != teacher_key(weighted)
    assert baseline_hash(before.identity) != baseline_hash(weighted.identity)


def test_a_masks_score_changes_hashes_only_where_it_is_another(tmp_path: Path) -> None:
    def mask_of(*words: str) -> Config:
        mask = loaded(flags(QUICKSTART, tmp_path, "--mask", "SampleMask", *words)).identity["mask"]
        found: Config = mask["init_args"]
        return found

    before = {"ratio": 0.5, "removes": "random"}
    assert mask_of("--mask.ratio", "0.5", "--mask.removes", "random") == before
    feature = loaded(flags(QUICKSTART, tmp_path)).identity["mask"]["init_args"]
    assert "score" not in feature
    feature = loaded(flags(QUICKSTART, tmp_path, "--mask.score", "mse")).identity["mask"]
    assert feature["init_args"]["score"] == "mse"
    by_rank = mask_of("--mask.score", "kendall", "--mask.threshold", "0")
    assert by_rank["score"] == "kendall"
    assert by_rank["threshold"] == 0


def test_shared_negatives_that_are_off_leave_hashes_as_they_were(tmp_path: Path) -> None:
    """Those of a CRD alone and of one in a sum, before it had the argument."""
    crd = {"class_path": "CRD", "init_args": {"layer": "hidden2", "negatives": 64}}
    terms = {"class_path": "Combined", "init_args": {"distillers": [crd, {"class_path": "KD"}]}}

    def run(distiller: Config, **changes: object) -> Run:
        crd["init_args"] = {"layer": "hidden2", "negatives": 64, **changes}
        return loaded(flags(QUICKSTART, tmp_path, "--model.distiller", json.dumps(distiller)))

    for distiller in (crd, terms):
        before, off = run(distiller), run(distiller, shared_negatives=False)
        on = run(distiller, shared_negatives=True)
        assert "shared_negatives" not in json.dumps(before.identity)
        assert config_hash(before.identity) == config_hash(off.identity)
        assert config_hash(before.identity) != config_hash(on.identity)
        assert teacher_key(before) == teacher_key(on)
        assert baseline_hash(before.identity) == baseline_hash(on.identity)


def test_the_class_weights_of_2dpass_are_part_of_its_identity(tmp_path: Path) -> None:
    small = ["--data.source", "simulated", "--data.simulated_frames", "2", "--data.scale", "0.1"]
    small += ["--data.crop", "[32,96]", "--data.batch_size", "2"]

    def arguments(weighting: str) -> dict[str, Any]:
        words = [*small, "--model.class_weighting", weighting]
        run = loaded(flags(Path("configs/semantickitti_2dpass.yaml"), tmp_path, *words))
        found: dict[str, Any] = run.identity["model"]["init_args"]
        return found

    assert arguments("2dpass")["class_weighting"] == "2dpass"
    assert "class_weighting" not in arguments("pmf")  # what the first records of 2DPASS had


def test_feature_masks_are_as_the_first_records_have_them() -> None:
    """`fill` was `retrain`; what came later and is left at its default is not there."""

    def of_mask(**given: Any) -> Any:
        arguments = {"ratio": 0.5, "score": "ncjsd", "draw": 0, "saliency": "signed", **given}
        mask = {"class_path": "ntdh_bench.masks.FeatureMask", "init_args": arguments}
        config = {
            "seed_everything": 0, "trainer": {}, "model": {"class_path": "M"},
            "data": {"class_path": "D", "init_args": {}}, "mask": mask,
        }  # fmt: skip
        return identify(config, {}, "real", "f")["mask"]["init_args"]

    assert of_mask(fill="zero") == {"ratio": 0.5, "retrain": False}
    assert of_mask(fill="retrain") == {"ratio": 0.5, "retrain": True}
    assert of_mask(fill="mean", draw=2) == {"ratio": 0.5, "fill": "mean", "draw": 2}


def test_a_resumed_run_keeps_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    saved = {"model": {"lr": 0.1, "layers": [1, 2]}, "trainer": {"max_epochs": 5}}
    torch.save({"state_dict": {}, "identity": saved}, path)
    check_resume(str(path), {**saved, "trainer": {"max_epochs": 10}})
    with pytest.raises(UserError, match=r"model\.lr is 0\.2, but .* was made with 0\.1"):
        check_resume(str(path), {**saved, "model": {"lr": 0.2, "layers": [1, 2]}})


def test_only_the_data_modules_own_arguments_are_left_out_of_the_identity() -> None:
    network = {"class_path": "my.Net", "init_args": {"features": 64, "jobs": 2}}
    settings = {"class_path": "my.Data", "init_args": {"root": "here", "jobs": 1, "net": network}}
    kept = _without(settings, {"root", "jobs", "features"})
    assert kept == {"class_path": "my.Data", "init_args": {"net": network}}
    assert _without({"class_path": "my.Data"}, {"root"}) == {"class_path": "my.Data"}
