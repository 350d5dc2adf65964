from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ntdh_bench.batch import PairedBatch
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.layers import change_layer, mask_layer
from ntdh_bench.masks import FeatureMask, FeatureSaliency, Removes
from ntdh_bench.masks.base import keep_mask
from ntdh_bench.masks.feature_mask import Fill
from ntdh_bench.masks.permuted import layer_output
from ntdh_bench.seeding import generator
from tests.helpers import held
from tests.typed import some

CLASSES, WIDTH, N = 4, 8, 40


class Data(LightningDataModule):
    """40 training samples in two batches; counts how often they are asked for."""

    num_classes, ignore_index, num_train, batch_size = CLASSES, 255, N, 20
    source, has_validation = "simulated", True

    def __init__(self, fingerprint: str = "data") -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self.reads = 0

    def batches(
        self, split: str, batch_size: int | None = None, epoch: int = 0
    ) -> Iterator[PairedBatch]:
        assert split == "train"
        self.reads += 1
        stream = torch.Generator().manual_seed(0)
        for first in range(0, N, 20):
            yield PairedBatch(
                teacher=torch.randn(20, 6, generator=stream),
                student=torch.randn(20, 6, generator=stream),
                target=torch.randint(CLASSES, (20,), generator=stream),
                index=torch.arange(first, first + 20),
            )

    def _loader(self) -> DataLoader[Any]:
        return DataLoader(list(self.batches("train")), batch_size=None)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = _loader


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    chain = nn.Sequential()
    chain.add_module("hidden1", nn.Sequential(nn.Linear(6, WIDTH), nn.Sigmoid()))
    chain.add_module("head", nn.Linear(WIDTH, CLASSES))
    return chain.eval().requires_grad_(False)


class Module(LightningModule):
    """As little of a DistillationModule as a mask needs; looks at the teacher in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(6, CLASSES)
        self.frozen_teacher = held(network(1), network(2))
        self.zeros: dict[str, set[tuple[int, ...]]] = {}
        self.hooks: set[int] = set()

    @property
    def hidden(self) -> nn.Module:
        return self.frozen_teacher.network.get_submodule("hidden1")

    def look(self, batch: PairedBatch, stage: str) -> None:
        hidden = self.hidden(batch["teacher"])
        zeros = tuple((hidden == 0).all(0).nonzero().flatten().tolist())
        self.zeros.setdefault(stage, set()).add(zeros)
        self.hooks.add(len(self.hidden._forward_hooks))

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        self.look(batch, "fit")
        return nn.functional.cross_entropy(self.student(batch["student"]), batch["target"])

    def validation_step(self, batch: PairedBatch, batch_idx: int) -> None:
        self.look(batch, "validate")

    def test_step(self, batch: PairedBatch, batch_idx: int) -> None:
        self.look(batch, "test")

    def predict_step(self, batch: PairedBatch, batch_idx: int) -> None:
        self.look(batch, "predict")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.student.parameters(), 0.1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def prepared(ratio: float, removes: Removes = "most_divergent", **settings: Any) -> FeatureMask:
    mask = FeatureMask(ratio, removes, **settings)
    mask.prepare(held(network(1), network(2)), cast(Any, Data()))
    return mask


def trainer(folder: Path, mask: FeatureMask, epochs: int = 1) -> Trainer:
    return Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[mask], logger=False,
        default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def test_removes_the_top_or_the_bottom_of_the_signed_saliency() -> None:
    expected = FeatureSaliency("hidden1").compute(network(1), network(2), Data().batches("train"))
    order = expected.values.argsort().tolist()
    top, bottom = prepared(0.25), prepared(0.25, "least_divergent")
    assert torch.equal(some(top.saliency).values, expected.values)
    assert set((~some(top.keep)).nonzero().flatten().tolist()) == set(order[-2:])
    assert set((~some(bottom.keep)).nonzero().flatten().tolist()) == set(order[:2])


@pytest.mark.parametrize("removes", ["most_divergent", "least_divergent", "random"])
@pytest.mark.parametrize(("ratio", "left"), [(0, 8), (0.1, 7), (0.06, 8), (0.5, 4), (1, 0)])
def test_removes_the_rounded_share(removes: Removes, ratio: float, left: int) -> None:
    keep = some(prepared(ratio, removes).keep)
    assert keep.dtype == torch.bool
    assert (keep.shape, int(keep.sum())) == ((WIDTH,), left)


def test_ranks_by_another_score() -> None:
    mask = prepared(0.75, score="mse", permutations=10)
    algorithm = FeatureSaliency("hidden1", 10, score="mse")
    values = algorithm.compute(network(1), network(2), Data().batches("train")).values
    assert torch.equal(some(mask.saliency).values, values)
    assert some(mask.keep).nonzero().flatten().tolist() == sorted(values.argsort()[:2].tolist())


@pytest.mark.parametrize(("layer", "width"), [("input", 6), ("hidden1", 8), ("head", 4)])
def test_any_layer(layer: str, width: int) -> None:
    for removes in ("most_divergent", "random"):
        keep = some(prepared(0.5, cast(Removes, removes), layer=layer).keep)
        assert keep.shape == (width,)


def test_random_is_seeded_and_needs_no_companion(cache: Path) -> None:
    def keep(seed: int) -> list[bool]:
        mask = FeatureMask(0.5, "random", seed=seed)
        mask.prepare(held(network(1)), cast(Any, Data()))
        assert mask.saliency is None
        return cast("list[bool]", some(mask.keep).tolist())

    assert keep(0) == keep(0)
    assert len({tuple(keep(seed)) for seed in range(5)}) > 1
    assert not cache.exists()


def masked_values(mask: FeatureMask, layer: str = "hidden1") -> tuple[Tensor, Tensor]:
    """The features of all training samples without the mask, and under it."""
    teacher = network(1)
    batches = [batch["teacher"] for batch in Data().batches("train")]
    before = torch.cat([layer_output(teacher, layer, inputs)[1] for inputs in batches])
    seen: list[Tensor] = []
    change_layer(teacher, layer, lambda values: seen.append(values) or values)
    mask_layer(teacher, layer, mask.layer_mask())
    for inputs in batches:
        teacher(inputs)
    return before, torch.cat(seen)


@pytest.mark.parametrize("layer", ["hidden1", "input"])
@pytest.mark.parametrize("ratio", [0, 0.4, 1])
def test_means_stay_where_they_are_filled_in(ratio: float, layer: str) -> None:
    mask = prepared(ratio, fill="mean", layer=layer)
    before, after = masked_values(mask, layer)
    removed = ~some(mask.keep)
    torch.testing.assert_close(after.mean(0), before.mean(0))
    assert torch.equal(after[:, ~removed], before[:, ~removed])
    assert (after[:, removed] == before[:, removed].double().mean(0).float()).all()


@pytest.mark.parametrize(("ratio", "factor"), [(0, 1.0), (0.25, 8 / 6), (0.4, 8 / 5), (1, None)])
def test_what_is_kept_makes_up_for_what_is_removed(ratio: float, factor: float | None) -> None:
    mask = prepared(ratio, "random", fill="rescale")
    before, after = masked_values(mask)
    removed = ~some(mask.keep)
    assert not after[:, removed].any()
    assert after.isfinite().all()
    if factor is not None:
        assert torch.equal(after[:, ~removed], before[:, ~removed] * factor)


def test_zeros_are_filled_in_unless_told_otherwise() -> None:
    mask = prepared(0.5)
    before, after = masked_values(mask)
    assert torch.equal(after, before * some(mask.keep))
    assert mask.means is None


def test_channels_of_maps_are_filled_with_their_mean_over_positions() -> None:
    teacher = nn.Sequential()
    teacher.add_module("conv", nn.Conv1d(1, 3, 2))
    teacher.add_module("head", nn.Sequential(nn.Flatten(), nn.Linear(15, CLASSES)))

    class Series(Data):
        def batches(self, *args: Any, **settings: Any) -> Iterator[PairedBatch]:
            for batch in super().batches(*args, **settings):
                yield {**batch, "teacher": cast(Tensor, batch["teacher"]).unsqueeze(1)}

    mask = FeatureMask(1, "random", layer="conv", fill="mean")
    mask.prepare(held(teacher), cast(Any, Series()))
    inputs = torch.cat([cast(Tensor, batch["teacher"]) for batch in Series().batches("train")])
    expected = teacher.get_submodule("conv")(inputs).mean((0, 2))
    torch.testing.assert_close(mask.layer_mask().shift, expected)
    mask_layer(teacher, "conv", mask.layer_mask())
    values = layer_output(teacher, "conv", inputs)[1]
    torch.testing.assert_close(values, expected[:, None].expand(N, 3, 5))


def test_members_of_a_stack_share_the_means() -> None:
    first, second = prepared(0.5, fill="mean"), FeatureMask(0.25, fill="mean")
    second.share(first)
    alone = prepared(0.25, fill="mean")
    for found, wanted in zip(second.layer_mask(), alone.layer_mask(), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_algorithm_1_as_it_is_printed_is_the_reverse(ratio: float) -> None:
    as_printed = prepared(ratio, saliency="literal")
    assert torch.equal(some(as_printed.keep), some(prepared(ratio, "least_divergent").keep))
    bottom = prepared(ratio, "least_divergent", saliency="literal")
    assert torch.equal(some(bottom.keep), some(prepared(ratio).keep))
    teacher, student = network(1), network(2)
    plain = FeatureSaliency("hidden1").compute(teacher, student, Data().batches("train"))
    permuted = plain.unmasked - plain.values  # the mean NCJSD without each feature
    top = set(permuted.argsort(descending=True)[: round(ratio * WIDTH)].tolist())
    assert set((~some(as_printed.keep)).nonzero().flatten().tolist()) == top


def test_both_readings_share_a_saliency(cache: Path) -> None:
    for reading in ("signed", "literal"):
        prepared(0.5, saliency=reading)
    assert len(list((cache / "saliency").glob("*.npz"))) == 1


def test_draws_of_a_seed_are_independent() -> None:
    def kept(draw: int) -> Tensor:
        mask = FeatureMask(0.5, "random", seed=3, draw=draw)
        return mask.choose(torch.zeros(1000), "random")

    as_before = keep_mask(torch.zeros(1000), 500, "random", generator(3, "feature_mask"))
    assert torch.equal(kept(0), as_before)
    drawn = torch.stack([kept(draw) for draw in range(41)]).double()
    apart = torch.corrcoef(drawn) - torch.eye(41)
    assert apart.abs().max() < 5 / 1000**0.5  # a correlation of 1,000 coins deviates by 0.032
    assert torch.equal(kept(7), drawn[7].bool())


def test_a_draw_of_what_is_not_random_is_an_error() -> None:
    with pytest.raises(UserError, match=r"mask\.draw is 2, but mask\.removes is most_divergent"):
        FeatureMask(0.5, draw=2)
    with pytest.raises(UserError, match=r"mask\.draw is -1"):
        FeatureMask(0.5, "random", draw=-1)


def test_without_a_companion_is_an_error() -> None:
    with pytest.raises(UserError, match=r"set model\.teacher to joint"):
        FeatureMask(0.5).prepare(held(network(1)), cast(Any, Data()))


def test_unknown_layer_is_an_error() -> None:
    for removes in ("most_divergent", "random"):
        with pytest.raises(UserError, match=r"'hidden7'.*hidden1"):
            prepared(0.5, cast(Removes, removes), layer="hidden7")


def test_values_out_of_range_are_errors() -> None:
    with pytest.raises(UserError, match=r"mask\.ratio is 1\.5"):
        FeatureMask(1.5)
    with pytest.raises(UserError, match=r"mask\.permutations is 0"):
        FeatureMask(0.5, permutations=0)
    with pytest.raises(UserError, match=r"mask\.fill is 'ones': choose one of zero, rescale"):
        FeatureMask(0.5, fill=cast(Any, "ones"))
    with pytest.raises(UserError, match=r"mask\.saliency is 'printed': choose one of signed, lit"):
        FeatureMask(0.5, saliency=cast(Any, "printed"))
    with pytest.raises(UserError, match=r"mask\.fill is retrain, but mask\.layer is 'hidden1'"):
        FeatureMask(0.5, fill="retrain")


def test_the_saliency_is_computed_once(cache: Path) -> None:
    data = Data()
    for ratio in (0.25, 0.5):
        mask = FeatureMask(ratio)
        mask.prepare(held(network(1), network(2)), cast(Any, data))
    assert data.reads == 1
    assert len(list((cache / "saliency").glob("*.npz"))) == 1
    changed: list[tuple[dict[str, Any], int, str]] = [
        ({"seed": 1}, 1, "data"),
        ({"permutations": 1}, 1, "data"),
        ({"layer": "input"}, 1, "data"),
        ({"score": "mse"}, 1, "data"),
        ({}, 3, "data"),
        ({}, 1, "other data"),
    ]
    for settings, seed, fingerprint in changed:
        mask = FeatureMask(0.5, **settings)
        mask.prepare(held(network(seed), network(2)), cast(Any, Data(fingerprint)))
    assert len(list((cache / "saliency").glob("*.npz"))) == 1 + len(changed)


def test_the_cache_tells_the_code_of_networks(
    cache: Path, write_module: Callable[[str, str], Path]
) -> None:
    """Equal weights in an edited network are another function."""
    saliencies = []
    for act in ("ReLU", "ReLU", "Tanh"):
        write_module("own_act.py", f"import torch\n\n\nclass Act(torch.nn.{act}):\n    pass\n")
        networks = network(1), network(2)
        for found in networks:
            found.hidden1[1] = import_module("own_act").Act()
        saliencies.append(FeatureMask(0.5).find_saliency(held(*networks), cast(Any, Data())))
    assert torch.equal(saliencies[0].values, saliencies[1].values)
    assert not torch.equal(saliencies[0].values, saliencies[2].values)
    assert len(list((cache / "saliency").glob("*.npz"))) == 2


def test_cache_dir_is_respected(tmp_path: Path, cache: Path) -> None:
    prepared(0.5, cache_dir=str(tmp_path / "mine"))
    assert len(list((tmp_path / "mine" / "saliency").glob("*.npz"))) == 1
    assert not cache.exists()


def test_masks_every_stage_once_and_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    mask, module, data = FeatureMask(0.5), Module(), Data()
    run = trainer(tmp_path, mask, epochs=2)
    run.fit(module, datamodule=data)
    run.test(module, datamodule=data, verbose=False)
    run.validate(module, datamodule=data, verbose=False)
    run.predict(module, datamodule=data)
    removed = tuple((~some(mask.keep)).nonzero().flatten().tolist())
    assert module.zeros == {stage: {removed} for stage in ("fit", "validate", "test", "predict")}
    assert module.hooks == {1}
    assert not module.hidden._forward_hooks


def test_a_failing_run_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    class Failing(Module):
        def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
            raise RuntimeError("no")

    module = Failing()
    with pytest.raises(RuntimeError, match="no"):
        trainer(tmp_path, FeatureMask(0.5)).fit(module, datamodule=Data())
    assert not module.hidden._forward_hooks


@pytest.mark.parametrize(
    ("removes", "fill"), [("most_divergent", "zero"), ("random", "rescale"), ("random", "mean")]
)
def test_the_mask_comes_from_the_checkpoint(
    removes: Removes, fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, module = FeatureMask(0.5, removes, fill=fill), Module()
    run = trainer(tmp_path, first)
    run.fit(module, datamodule=Data())
    run.save_checkpoint(path := tmp_path / "run.ckpt")
    torch.load(path, weights_only=True)

    monkeypatch.setattr(FeatureMask, "prepare", None)  # calling it would fail
    for stage in ("fit", "test"):
        second, module = FeatureMask(0.5, removes, fill=fill), Module()
        run = trainer(tmp_path, second, epochs=2)
        getattr(run, stage)(module, datamodule=Data(), ckpt_path=path, weights_only=True)
        for found, wanted in zip(second.layer_mask(), first.layer_mask(), strict=True):
            assert torch.equal(found, wanted)
        assert (second.saliency is None) == (removes == "random")
        if second.saliency is not None and first.saliency is not None:
            assert torch.equal(second.saliency.values, first.saliency.values)
        assert len(module.zeros[stage].pop()) == (0 if fill == "mean" else 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.25}, r"mask\.ratio 0\.5, but this run says 0\.25"),
        ({"removes": "random"}, r"mask\.removes most_divergent, but this run says random"),
        ({"layer": "input"}, r"mask\.layer hidden1, but this run says input"),
        ({"seed": 3}, r"mask\.seed 0, but this run says 3"),
        ({"score": "mse"}, r"mask\.score ncjsd, but this run says mse"),
        ({"fill": "mean"}, r"mask\.fill zero, but this run says mean"),
        ({"saliency": "literal"}, r"mask\.saliency signed, but this run says literal"),
        ({"removes": "random", "draw": 2}, r"mask\.draw 1, but this run says 2"),
    ],
)
def test_a_checkpoint_of_another_mask_is_an_error(settings: dict[str, Any], message: str) -> None:
    made = {"removes": "random", "draw": 1} if "draw" in settings else {}
    state = prepared(0.5, **made).state_dict()
    with pytest.raises(UserError, match=message):
        FeatureMask(**{"ratio": 0.5, **settings}).load_state_dict(state)


@pytest.mark.parametrize("fill", ["zero", "retrain"])
def test_a_checkpoint_from_before_there_were_fills_scores_and_draws(fill: Fill) -> None:
    """What it holds, and how it names the score of the unmasked networks."""
    first = prepared(0.5, layer="input", fill=fill)
    state = first.state_dict()
    for later in ("score", "draw", "fill", "saliency"):
        del state["settings"][later]
    state["settings"]["retrain"] = fill == "retrain"
    del state["saliency"]["score"]
    state["saliency"]["ncjsd"] = state["saliency"].pop("unmasked")
    second = FeatureMask(0.5, layer="input", fill=fill)
    second.load_state_dict(state)
    with pytest.raises(UserError, match=f"mask.fill {fill}, but this run says rescale"):
        FeatureMask(0.5, layer="input", fill="rescale").load_state_dict(state)
    assert torch.equal(some(second.keep), some(first.keep))
    assert some(second.saliency).unmasked == some(first.saliency).unmasked
    assert some(second.saliency).score == "ncjsd"


def test_a_checkpoint_without_its_means_is_damaged() -> None:
    state = prepared(0.5, fill="mean").state_dict()
    for damage in (None, torch.zeros(3), "means"):
        with pytest.raises(FileError, match="the checkpoint's mask is damaged"):
            FeatureMask(0.5, fill="mean").load_state_dict({**state, "means": damage})


def test_has_no_state_before_it_is_prepared() -> None:
    assert FeatureMask(0.5).state_dict() == {}


def test_another_module_is_an_error(tmp_path: Path) -> None:
    class Other(LightningModule):
        pass

    with pytest.raises(UserError, match="DistillationModule, not a Other"):
        FeatureMask(0.5).setup(cast(Any, None), Other(), "fit")


def test_retraining_needs_a_prepared_mask(tmp_path: Path) -> None:
    mask = FeatureMask(0.5, layer="input", fill="retrain")
    with pytest.raises(UserError, match=r"mask\.fill: retrain needs the mask"):
        trainer(tmp_path, mask).fit(Module(), datamodule=Data())
    mask.prepare(held(network(1), network(2)), cast(Any, Data()))
    trainer(tmp_path, mask).fit(Module(), datamodule=Data())


def test_needs_a_data_module(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="datamodule="):
        trainer(tmp_path, FeatureMask(0.5)).fit(Module(), Data().train_dataloader())
