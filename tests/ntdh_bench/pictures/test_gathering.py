from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntdh_bench.distillers import KD
from ntdh_bench.masks import SampleMask
from ntdh_bench.models import TeacherModule
from ntdh_bench.pictures.file import Pictures
from ntdh_bench.pictures.gathering import Gathering, _chosen, _joined
from tests.helpers import CLASSES, distillation, joint_checkpoint, network, optimizer, quiet_trainer
from tests.helpers import small_data as data


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return joint_checkpoint(tmp_path_factory.mktemp("teacher"), data())


def gathered(module: Any, folder: Path, mask: SampleMask | None = None) -> tuple[Pictures, Any]:
    """Test a module; returns what was gathered, and its metrics."""
    pairs, gathering = data(), Gathering(mask)
    callbacks = [gathering, *([mask] if mask else [])]
    trainer = quiet_trainer(folder, callbacks=callbacks)
    (metrics,) = trainer.test(module, datamodule=pairs, verbose=False)
    return gathering.pictures(pairs), metrics


def test_counts_say_what_the_metrics_say(teacher: Path, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    found, metrics = gathered(distillation(teacher, KD(temperature=2.0)), tmp_path)
    for network_name, metric in (("student", "accuracy"), ("teacher", "teacher_accuracy")):
        counts = found.confusion[network_name]
        assert counts.sum() == 120  # 30 % of 400
        assert np.trace(counts) / 120 == pytest.approx(metrics[f"test/{metric}"])
    assert found.ncjsd is not None
    rows = found.confusion["student"].sum(axis=1)
    mean = (found.ncjsd * rows).sum() / rows.sum()
    assert mean == pytest.approx(metrics["test/ncjsd"], rel=1e-6)
    assert torch.equal(before, torch.random.get_rng_state()), "a number was drawn"


def test_samples_are_those_of_the_test_set_with_what_the_networks_say(
    teacher: Path, tmp_path: Path
) -> None:
    module = distillation(teacher, KD(temperature=2.0))
    found, _ = gathered(module, tmp_path)
    assert found.samples() == 8  # two of each of four batches
    assert found.target is not None
    pairs = data()
    pairs.setup("test")
    firsts = list(pairs.batches("test", batch_size=32))
    rows = [(batch, row) for batch in firsts for row in (0, len(batch["index"]) // 2)]
    for number, (batch, row) in enumerate(rows):
        assert found.target[number] == batch["target"][row]
        student = batch["student"]
        assert isinstance(student, torch.Tensor)
        np.testing.assert_allclose(found.inputs["student"][number, 0], student[row].numpy())
        sure, label = module.student(student[row : row + 1]).softmax(dim=1).max(dim=1)
        assert found.prediction["student"][number] == int(label)
        assert found.confidence["student"][number] == pytest.approx(float(sure), rel=1e-5)


def test_a_sample_mask_says_which_classes_it_drops(teacher: Path, tmp_path: Path) -> None:
    mask = SampleMask(ratio=0.5)
    found, _ = gathered(distillation(teacher, KD(temperature=2.0)), tmp_path, mask)
    assert found.dropped is not None
    assert found.dropped.sum() == 60
    assert (found.dropped <= found.confusion["student"].sum(axis=1)).all()


def test_a_network_alone_has_counts_and_no_divergence(tmp_path: Path) -> None:
    module = TeacherModule(network, CLASSES, "student", optimizer)
    found, metrics = gathered(module, tmp_path)
    assert found.confusion.keys() == {"student"}
    assert np.trace(found.confusion["student"]) / 120 == pytest.approx(metrics["test/accuracy"])
    assert found.ncjsd is None


def test_a_module_that_says_nothing_leaves_nothing(teacher: Path, tmp_path: Path) -> None:
    module = distillation(teacher, KD(temperature=2.0))
    evaluate = module.evaluate
    module.evaluate = lambda *given: evaluate(*given) and None  # type: ignore[method-assign]
    found, _ = gathered(module, tmp_path)
    assert not found.confusion
    assert found.samples() == 0


def test_what_another_module_returns_is_left_alone() -> None:
    gathering: Any = Gathering(None)
    gathering.on_test_batch_end(None, None, {"student": torch.zeros(2, 3)}, {}, 0)
    assert not gathering._rows


def test_samples_of_several_sizes_are_not_joined() -> None:
    rows = [{"rows": {"target": torch.zeros(1, side, side)}, "outputs": {}} for side in (4, 5)]
    assert _joined(rows) == {}


@pytest.mark.parametrize("batches", [1, 2, 3, 6, 7, 100])
def test_samples_lie_evenly_over_the_batches(batches: int) -> None:
    chosen = [_chosen(batch, batches, 32) for batch in range(batches)]
    assert 6 <= sum(map(len, chosen)) <= 10
    if batches >= 6:
        places = [batch for batch, rows in enumerate(chosen) if rows]
        assert max(np.diff(places)) <= batches // 6 + 1
    assert all(0 <= row < 32 for rows in chosen for row in rows)


def test_of_batches_without_end_the_first_gives_samples() -> None:
    assert [len(_chosen(batch, float("inf"), 32)) for batch in range(3)] == [6, 0, 0]


def test_of_a_small_batch_all_rows_are_taken() -> None:
    assert _chosen(0, 1, 2) == [0, 1]
