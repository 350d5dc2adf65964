"""The commands on a dense task: mIoU instead of accuracy, and where pixels diverge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from ntdh_bench import runs
from ntdh_bench.cli import main
from ntdh_bench.composition import read_config
from ntdh_bench.records.columns import METRICS
from ntdh_bench.records.identity import Place
from ntdh_bench.records.rows import to_row
from tests.helpers import flags, record_of, small_and_simulated


class Pixels(nn.Sequential):
    """Labels every pixel of an image by its channels alone."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__(nn.Conv2d(channels, 20, 1))


CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "trainer": {"max_epochs": 2},
    "model": {
        "class_path": "DistillationModule",
        "init_args": {
            "teacher_network": {"class_path": "tests.models.test_dense.Segmenter"},
            "student_network": {
                "class_path": "tests.models.test_dense.Segmenter", "init_args": {"channels": 5},
            },
            "distiller": {"class_path": "DKD"},
            "teacher": "independent",
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
        },
    },
    "data": {"class_path": "tests.models.test_dense.Streets"},
    "mask": {"class_path": "SampleMask", "init_args": {"ratio": 0.25}},
}  # fmt: skip


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    path = tmp_path / "dense.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return list(flags(path, tmp_path / "runs"))


def test_fit_and_test_report_mean_iou(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *words]) == 0
    shown = capsys.readouterr().out
    assert "mIoU %" in shown
    assert "accuracy" not in shown
    (run,) = (tmp_path / "runs").iterdir()
    record = record_of(run)
    assert record["metrics"]["best"]["checkpoint"].startswith("best-")
    expected = {name for name in METRICS if "accuracy" not in name} - {"cka"}
    assert set(record["metrics"]["last"]["test"]) == expected
    per_class = record["metrics"]["last"]["test_per_class"]
    assert list(per_class) == ["1", "2", "3", "4"]
    assert sum(per_class.values()) / 4 == pytest.approx(record["metrics"]["last"]["test"]["miou"])
    assert f"IoU %        1 {100 * per_class['1']:.1f}, 2 " in shown
    assert {"miou", "tcjsd", "ncjsd"} <= record["curves"].keys()
    row = to_row({**record, "run": "x"}, Place("table4", "small"))
    assert (row["method"], row["arm"], row["mask"]) == ("DKD", "kd", "sample")
    assert row["last_test_miou"] == record["metrics"]["last"]["test"]["miou"]
    assert main(["test", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), *words[4:]]) == 0
    assert f"{100 * row['last_test_miou']:.2f}" in capsys.readouterr().out


def test_saliency_draws_the_divergence_of_pixels(words: list[str]) -> None:
    run = runs.Run.parse("saliency", words)
    record, paths = runs.map_divergence(run)
    assert (record["arm"], record["epochs"]) == ("saliency", 2)
    assert len(record["maps"]) == 6
    assert len(record["maps"]["sample 1, NCJSD"]) == 6
    assert paths[0] == run.folder / "divergence" / "divergence.npz"
    assert {path.name for path in paths[0].parent.iterdir()} == {
        "divergence.npz", "divergence.png", "divergence.svg",
    }  # fmt: skip


STREET: dict[str, Any] = {
    "seed_everything": 0,
    "trainer": {"max_epochs": 1, "limit_train_batches": 1},
    "model": {
        "class_path": "PMFModule",
        "init_args": {"network": {"class_path": "tests.models.fusion.TinyPMF"}},
    },
    "data": {"class_path": "SemanticKITTIDataModule"},
}


def test_a_method_without_a_distiller_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "street.yaml"
    path.write_text(yaml.safe_dump(STREET))
    words = small_and_simulated(STREET)
    folder = tmp_path / "runs"
    assert main(["fit", *flags(path, folder, *words, "--data.points", "true")]) == 0
    shown = capsys.readouterr().out
    assert "student of PMF, last epoch" in shown
    assert "with KD" not in shown
    assert "point mIoU %" in shown
    (run,) = folder.iterdir()
    last = record_of(run)["metrics"]["last"]
    assert last["test"]["point_miou"] >= 0
    assert list(last["test_per_class"])[:2] == ["car", "bicycle"]
    assert len(last["test_per_class"]) == 19


@pytest.mark.parametrize("sees", ["own", "student", "both"])
def test_a_pixel_network_takes_the_image_of_points(
    sees: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def segmenter(channels: int) -> dict[str, Any]:
        name = "tests.ntdh_bench.commands.test_dense.Pixels"
        return {"class_path": name, "init_args": {"channels": channels}}

    settings = {
        **CONFIG["model"]["init_args"],
        "teacher": "joint",
        "teacher_network": segmenter(5 if sees == "student" else 3),
        "student_network": segmenter(5),
    }
    model = {"class_path": "DistillationModule", "init_args": settings}
    config = {**STREET, "model": model, "mask": CONFIG["mask"]}
    path = tmp_path / "street.yaml"
    path.write_text(yaml.safe_dump(config))
    words = [*small_and_simulated(config), "--data.points", "true"]
    if sees == "student":
        words += ["--data.unimodal", "true"]
    if sees == "both":
        words += ["--model.teacher_inputs", "both", "--model.teacher_fusion", "GatedFusion"]
    assert main(["fit", *flags(path, tmp_path / "runs", *words)]) == 0
    shown = capsys.readouterr().out
    assert "student with KD, last epoch" in shown
    assert "point mIoU %" in shown


def test_saliency_of_volumes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Path("configs/nyuv2_ssc_kd.yaml")
    small = small_and_simulated(read_config(config))
    assert main(["saliency", *flags(config, tmp_path / "runs", *small)]) == 1
    assert "the targets of nyuv2 have the size (15, 9, 15) here" in capsys.readouterr().err
