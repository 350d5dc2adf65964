"""Networks of both modalities, and the modules that train and use them as teachers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ntdh_bench.batch import both_inputs, inputs_of
from ntdh_bench.composition import Config, read_config
from ntdh_bench.distillers import KD, FitNet, SimKD
from ntdh_bench.errors import UserError
from ntdh_bench.layers import FeatureTap
from ntdh_bench.masks import FeatureMask
from ntdh_bench.models import (
    AudioCNN,
    CameraNet,
    ConcatFusion,
    DDRNet,
    DistillationModule,
    EncoderDecoder,
    GatedFusion,
    ImageCNN,
    JointModule,
    LateFusion,
    MLPClassifier,
    SalsaNext,
    TeacherModule,
    cnn,
)
from ntdh_bench.records.identity import Place, baseline_hash
from ntdh_bench.records.rows import to_row
from ntdh_bench.runs import Run, fit
from ntdh_bench.runs.teacher import teacher_key
from ntdh_bench.sweep.worker import run_config
from tests.helpers import (
    CLASSES,
    attached,
    flags,
    network,
    optimizer,
    quiet_trainer,
    refusal,
    small_data,
)

FUSIONS: tuple[Callable[..., nn.Sequential], ...] = (LateFusion, ConcatFusion, GatedFusion)
GRID = (12, 8, 12)


def mlps() -> tuple[partial[nn.Module], partial[nn.Module]]:
    return partial(MLPClassifier, 6, [8, 7], CLASSES), partial(MLPClassifier, 3, [5], CLASSES)


def both(*shapes: tuple[int, ...]) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return both_inputs(*(torch.randn(4, *shape) for shape in shapes))


def built(fusion: Callable[..., nn.Sequential], *networks: Any, **changes: Any) -> nn.Sequential:
    torch.manual_seed(1)
    return fusion(*networks, **changes).eval()


def voxels() -> dict[str, Tensor]:
    return {
        "image": torch.randn(4, 1, 6, 8),
        "position": torch.randint(-1, GRID[0] * GRID[1] * GRID[2], (4, 6, 8)),
    }


# -- networks ------------------------------------------------------------------------------------


def test_the_mean_of_the_logits_of_any_two_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cnn, "_POOLED", (2, 3))
    for first, second, inputs in (
        (*mlps(), both((6,), (3,))),
        (partial(AudioCNN, 5), partial(ImageCNN, 5), both((1, 20, 24), (3, 16, 16))),
        (partial(SalsaNext, 5, 6), partial(SalsaNext, 5, 6), both((5, 32, 64), (5, 32, 64))),
        (  # of one size that needs no padding: its head looks at neighbours
            partial(CameraNet, 3, 6, "resnet18"), partial(CameraNet, 5, 6, "resnet18"),
            both((3, 32, 48), (5, 32, 48)),
        ),
        (  # its head comes before the logits are made larger
            partial(EncoderDecoder, 3, 6), partial(EncoderDecoder, 1, 6),
            both((3, 40, 50), (1, 40, 50)),
        ),
        (
            partial(DDRNet, 1, 6, GRID), partial(DDRNet, 1, 6, GRID),
            both_inputs(voxels(), voxels()),
        ),
    ):  # fmt: skip
        torch.manual_seed(1)
        alone = [first().eval(), second().eval()]
        fused = built(LateFusion, first, second)
        logits = [
            network(inputs_of(name, inputs))
            for name, network in zip(("teacher", "student"), alone, strict=True)
        ]
        torch.testing.assert_close(fused(inputs), sum(logits) / 2, atol=1e-5, rtol=1e-4)


def test_concatenation_is_a_hidden_layer_over_both() -> None:
    fused, inputs = built(ConcatFusion, *mlps(), width=9), both((6,), (3,))
    branches, hidden, head = fused
    features = [
        branches.teacher.hidden2(branches.teacher.hidden1(inputs["teacher"])),
        branches.student.hidden1(inputs["student"]),
    ]
    joined = torch.cat(features, dim=1)
    assert joined.shape == (4, 12)
    wanted = head(torch.relu(joined @ hidden[0].weight.t() + hidden[0].bias))
    torch.testing.assert_close(fused(inputs), wanted)
    assert (hidden[0].out_features, head.out_features) == (9, CLASSES)


def test_the_gate_weighs_both_sample_by_sample() -> None:
    fused, inputs = built(GatedFusion, *mlps(), width=9).double(), both((6,), (3,))
    inputs = {name: value.double() for name, value in inputs.items()}
    branches, unit, head = fused
    a = branches.teacher.hidden2(branches.teacher.hidden1(inputs["teacher"]))
    b = branches.student.hidden1(inputs["student"])
    hidden = torch.empty(4, 9, dtype=torch.float64)
    for row in range(4):
        for place in range(9):
            z = torch.sigmoid(
                unit.gate.weight[place] @ torch.cat([a[row], b[row]]) + unit.gate.bias[place]
            )
            first = torch.tanh(unit.teacher.weight[place] @ a[row] + unit.teacher.bias[place])
            second = torch.tanh(unit.student.weight[place] @ b[row] + unit.student.bias[place])
            hidden[row, place] = z * first + (1 - z) * second
    torch.testing.assert_close(fused(inputs), head(hidden), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_layers_by_name_and_no_idle_weights(fusion: Callable[..., nn.Sequential]) -> None:
    fused, inputs = built(fusion, *mlps()), both((6,), (3,))
    tap = FeatureTap(fused, ["hidden2", "branches.teacher.hidden1", "branches.student.hidden1"])
    outputs = tap(inputs)
    torch.testing.assert_close(fused.head(outputs["hidden2"]), outputs["logits"])
    assert outputs["branches.teacher.hidden1"].shape == (4, 8)
    outputs["logits"].square().sum().backward()
    idle = [n for n, value in fused.named_parameters() if value.grad is None]
    assert idle == []  # several processes would wait for their gradients


@pytest.mark.parametrize("fusion", FUSIONS)
def test_dense_tasks_are_fused_position_by_position(fusion: Callable[..., nn.Sequential]) -> None:
    pair = partial(EncoderDecoder, 3, 6), partial(EncoderDecoder, 1, 6)
    fused = built(fusion, *pair)
    assert fused(both((3, 40, 50), (1, 40, 50))).shape == (4, 6, 40, 50)
    with pytest.raises(UserError, match=r"grids \(40, 50\) and \(40, 64\)"):
        fused(both((3, 40, 50), (1, 40, 64)))


def test_what_cannot_be_joined() -> None:
    first, second = mlps()
    with pytest.raises(UserError, match=r"a Linear of 4 logits and a Linear of 5 .*num_classes"):
        LateFusion(first, partial(MLPClassifier, 3, [5], 5))
    with pytest.raises(UserError, match="a Linear of 4 logits and a Conv2d of 6"):
        GatedFusion(first, partial(EncoderDecoder, 1, 6))
    with pytest.raises(UserError, match="Flatten has no linear layer"):
        ConcatFusion(nn.Flatten, second)
    with pytest.raises(UserError, match="Linear has no linear layer or convolution at its end"):
        ConcatFusion(partial(nn.Linear, 6, 4), second)
    odd = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Identity())
    odd.forward = lambda x: odd[1](odd[0](x)).repeat(1, 2)  # type: ignore[method-assign]
    with pytest.raises(UserError, match="give 10 and 5 features, their last layers by name take 5"):
        LateFusion(lambda: odd, second)(both((6,), (3,)))
    with pytest.raises(UserError, match="width is 0"):
        ConcatFusion(first, second, width=0)
    fused = LateFusion(first, second)
    alone: tuple[Any, ...] = (torch.randn(4, 6), {"teacher": torch.randn(4, 6)}, {})
    for inputs, found in zip(alone, ("one tensor", "'teacher'", "none"), strict=True):
        with pytest.raises(UserError, match=f"not {found}: set model.teacher_inputs to both"):
            fused(inputs)


# -- modules -------------------------------------------------------------------------------------


def distilling(**changes: Any) -> DistillationModule:
    settings: dict[str, Any] = {
        "optimizer": optimizer, "distiller": KD(), "teacher_inputs": "both",
        "teacher_fusion": ConcatFusion,
    }  # fmt: skip
    return DistillationModule(network, network, CLASSES, **{**settings, **changes})


@pytest.mark.parametrize("kind", ["joint", "independent"])
def test_a_teacher_of_both_teaches_a_student_of_one(kind: Any, tmp_path: Path) -> None:
    data = small_data()
    data.teacher_inputs = "both"
    module = distilling(teacher=kind)
    teacher = module.teacher_module(kind)
    trainer = quiet_trainer(tmp_path)
    trainer.fit(teacher, datamodule=data)
    trainer.save_checkpoint(tmp_path / "teacher.ckpt")
    module.frozen_teacher.load(tmp_path / "teacher.ckpt")
    trainer = quiet_trainer(tmp_path)
    trainer.fit(module, datamodule=data)
    batch = next(data.batches("test"))
    logits = module.frozen_teacher.network(batch["teacher"])
    assert isinstance(batch["student"], Tensor)
    assert module(batch["student"]).shape == logits.shape == (len(batch["target"]), CLASSES)
    attached(module, data, tmp_path)
    cached = module.frozen_teacher.outputs(batch, "test", data)["logits"]
    torch.testing.assert_close(cached, logits)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("distiller", [partial(FitNet, layer="hidden2"), SimKD])
def test_features_before_the_head_are_distilled(
    fusion: Any, distiller: Callable[[], Any], tmp_path: Path
) -> None:
    data = small_data()
    data.teacher_inputs = "both"
    module = distilling(teacher_fusion=fusion, distiller=distiller(), task_weight=0.0)
    module.frozen_teacher.hold(module.frozen_teacher.untrained())
    before = module.frozen_teacher.hash
    trainer = quiet_trainer(tmp_path)
    trainer.fit(module, datamodule=data)
    assert 0 < trainer.callback_metrics["train/distill_loss"] < torch.inf
    module.frozen_teacher.hold(module.frozen_teacher.network)
    assert module.frozen_teacher.hash == before


def test_one_alone_sees_both(tmp_path: Path) -> None:
    data = small_data()
    data.teacher_inputs = "both"
    pair = partial(LateFusion, network, network)
    alone = TeacherModule(pair, CLASSES, modality="both", optimizer=optimizer)
    quiet_trainer(tmp_path).fit(alone, datamodule=data)
    assert (alone.modality, alone.teacher_inputs) == (None, "both")
    assert alone.parameter_counts() == {
        "teacher": 2 * sum(value.numel() for value in network().parameters())
    }


@pytest.mark.parametrize("module", [
    partial(TeacherModule, partial(LateFusion, network, network), CLASSES, modality="both"),
    partial(JointModule, partial(LateFusion, network, network), network, CLASSES,
            teacher_inputs="both"),
])  # fmt: skip
def test_data_that_do_not_give_both(module: Callable[[], Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SyntheticDataModule gives it its own alone: set teacher_"):
        quiet_trainer(tmp_path).fit(module(), datamodule=small_data())


def test_a_network_of_one_modality_is_no_teacher_of_both(tmp_path: Path) -> None:
    data = small_data()
    data.teacher_inputs = "both"
    module = TeacherModule(network, CLASSES, modality="both", optimizer=optimizer)
    with pytest.raises(UserError, match=r"inputs of shape \['teacher', 'student'\]: .*LateFusion"):
        quiet_trainer(tmp_path).fit(module, datamodule=data)


def test_a_fusion_needs_both() -> None:
    with pytest.raises(UserError, match=r"set model\.teacher_inputs to both, or leave it out"):
        distilling(teacher_inputs="own")


# -- runs ----------------------------------------------------------------------------------------

SHORT = [
    "--trainer.max_epochs", "1", "--data.steps_per_epoch", "3", "--model.teacher_inputs", "both",
]  # fmt: skip
FUSED = [*SHORT, "--model.teacher_fusion", "ConcatFusion"]
SYNTHETIC = Path("configs/synthetic_converged.yaml")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def identities(*changes: Config) -> list[Run]:
    base = read_config(SYNTHETIC)
    runs = []
    for change in changes:
        model = {**base["model"], "init_args": {**base["model"]["init_args"], **change}}
        run = Run.parse("fit", config={**base, "model": model})
        run.load_data("fit")
        runs.append(run)
    return runs


def test_what_tells_teachers_apart_and_what_students_share() -> None:
    fusion = {"class_path": "ConcatFusion"}
    own, concat, gated, named = identities(
        {},
        {"teacher_inputs": "both", "teacher_fusion": fusion},
        {"teacher_inputs": "both", "teacher_fusion": {"class_path": "GatedFusion"}},
        {"teacher_inputs": "own"},
    )
    assert "teacher_inputs" not in own.identity["model"]["init_args"]  # as records before it
    assert own.identity == named.identity
    assert len({teacher_key(run) for run in (own, concat, gated)}) == 3
    runs = own, concat, gated
    assert len({baseline_hash(run.identity) for run in runs}) == 1
    assert len({run.data.fingerprint for run in runs}) == 1


def test_students_without_kd_are_shared_by_teachers_of_either_kind(tmp_path: Path) -> None:
    config = read_config(SYNTHETIC)
    config["trainer"]["max_epochs"] = 1
    config["data"]["init_args"]["steps_per_epoch"] = 3
    arguments = config["model"]["init_args"]
    arguments["distiller"] = None
    fused = {"teacher_inputs": "both", "teacher_fusion": {"class_path": "LateFusion"}}
    records = []
    for number, changes in enumerate(({}, fused)):
        (tmp_path / str(number)).mkdir()
        model = {**config["model"], "init_args": {**arguments, **changes}}
        records.append(run_config({**config, "model": model}, tmp_path / str(number)))
    own, both = records
    assert both["from_cache"].keys() == {"control"}
    assert own["baseline_hash"] == both["baseline_hash"]
    assert own["teacher_hash"] != both["teacher_hash"]
    measured = [record["metrics"]["last"]["test"] for record in records]
    assert measured[0]["accuracy"] == measured[1]["accuracy"]
    assert measured[0]["ncjsd"] != measured[1]["ncjsd"]


@pytest.mark.parametrize(("words", "reason"), [
    ([*FUSED, "--data.unimodal", "true"], "data.unimodal gives the teacher the student's"),
    ([*SHORT], "such as LateFusion, or set model.teacher_inputs to own"),
    ([*FUSED, "--mask", "FeatureMask", "--mask.ratio", "0.5", "--mask.layer", "input"],
     "mask.layer is 'input', but the teacher has several inputs (teacher, student): mask a layer"),
    ([*SHORT, "--model.teacher_fusion", "torch.nn.Flatten"], "to be a subclass of Fusion"),
])  # fmt: skip
def test_what_is_refused(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    assert reason in refusal(["fit", *flags(SYNTHETIC, tmp_path / "runs", *words)], capsys)
    assert not list(cache.glob("teachers/*.ckpt"))  # before anything is trained


@pytest.mark.parametrize("mask", [
    ["--mask", "FeatureMask", "--mask.ratio", "0.5", "--mask.layer", "hidden2",
     "--mask.permutations", "1"],
    ["--mask", "SampleMask", "--mask.ratio", "0.5"],
])  # fmt: skip
def test_masks_of_a_teacher_of_both(mask: list[str], tmp_path: Path) -> None:
    run = Run.parse("fit", flags(SYNTHETIC, tmp_path / "runs", *FUSED, *mask))
    record = fit(run)
    assert to_row({**record, "run": "0" * 16}, Place("any", "short"))["teacher_inputs"] == "both"
    assert record["metrics"]["last"]["test"]["accuracy"] > 0
    if isinstance(run.mask, FeatureMask):
        assert run.mask.keep is not None
        assert int((~run.mask.keep).sum()) == 64
