from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from ntdh_bench.batch import PairedBatch, both_inputs
from ntdh_bench.divergence import flatten_dense, ncjsd
from ntdh_bench.errors import UserError
from ntdh_bench.layers import INPUT, LayerMask, find_layer, mask_layer
from ntdh_bench.masks import FeatureSaliency, Saliency
from ntdh_bench.masks import permuted as permuted_module
from ntdh_bench.masks.nontarget import FeatureScore
from ntdh_bench.masks.permuted import PermutedTeacher
from ntdh_bench.models import ConcatFusion, GatedFusion, LateFusion
from ntdh_bench.seeding import generator

CLASSES = 5


def naive(
    algorithm: FeatureSaliency,
    teacher: nn.Module,
    student: nn.Module,
    batches: list[PairedBatch],
    ignore_index: int = 255,
) -> tuple[Tensor, float]:
    """Algorithm 1 as it is written: feature by feature, the whole network, in float64."""
    teacher, student = (
        copy.deepcopy(teacher).double().eval(),
        copy.deepcopy(student).double().eval(),
    )
    module = find_layer(teacher, algorithm.layer)

    def divergences(batch: PairedBatch) -> Tensor:
        given = batch["teacher"]
        inputs = (
            given.double()
            if isinstance(given, Tensor)
            else {name: value.double() for name, value in given.items()}
        )
        a, target = flatten_dense(teacher(inputs), batch["target"], ignore_index)
        b, _ = flatten_dense(student(batch["student"].double()), batch["target"], ignore_index)
        return (a - b).square().mean(1) if algorithm.score == "mse" else ncjsd(a, b, target)

    def permuting(feature: int, order: Tensor) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, args: tuple[Tensor], output: Tensor | None = None) -> Tensor:
            values = (args[0].flatten(1) if output is None else output).clone()
            values[:, feature] = values[order, feature]
            return values.view(args[0].shape) if output is None else values

        return hook

    sums: list[float] = []
    base, rows = 0.0, 0
    with torch.no_grad():
        for number, batch in enumerate(batches):
            unmasked = divergences(batch)
            base, rows = base + float(unmasked.sum()), rows + len(unmasked)
            if not sums:
                sums = [0.0] * PermutedTeacher(
                    teacher.float(),
                    algorithm.layer,
                    batch["teacher"],
                    student.float()(batch["student"]),
                    batch["target"],
                    ignore_index,
                ).width
                teacher.double(), student.double()
            for m in range(algorithm.permutations):
                order = torch.randperm(
                    len(batch["target"]),
                    generator=generator(algorithm.seed, "saliency", m, number),
                )
                for feature in range(len(sums)):
                    hook = permuting(feature, order)
                    handle = (
                        module.register_forward_pre_hook(hook)
                        if algorithm.layer == INPUT
                        else module.register_forward_hook(hook)
                    )
                    sums[feature] += float((unmasked - divergences(batch)).sum())
                    handle.remove()
    return torch.tensor(sums, dtype=torch.float64) / rows / algorithm.permutations, base / rows


def make_batches(
    *sizes: int, shape: tuple[int, ...] = (6,), target_shape: tuple[int, ...] = (), seed: int = 0
) -> list[PairedBatch]:
    torch.manual_seed(seed)
    return [
        PairedBatch(
            teacher=torch.randn(size, *shape),
            student=torch.randn(size, *shape),
            target=torch.randint(CLASSES, (size, *target_shape)),
            index=torch.arange(size),
        )
        for size in sizes
    ]


def mlps(activation: type[nn.Module] = nn.LeakyReLU) -> tuple[nn.Sequential, nn.Sequential]:
    def mlp() -> nn.Sequential:
        network = nn.Sequential(nn.Flatten())
        for number, (before, after) in enumerate([(6, 8), (8, 7)], start=1):
            hidden = nn.Sequential(nn.Linear(before, after), activation())
            network.add_module(f"hidden{number}", hidden)
        network.add_module("head", nn.Linear(7, CLASSES))
        return network

    torch.manual_seed(1)
    return mlp(), mlp()


def conv_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(16, CLASSES),
    )  # fmt: skip


class Residual(nn.Module):
    """No chain: the features go round the layer, and the inputs have names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor | dict[str, Tensor]) -> Tensor:
        x = inputs if isinstance(inputs, Tensor) else torch.cat([inputs["x"], inputs["y"]], 1)
        hidden = self.first(x[:, :3]).tanh()
        logits: Tensor = self.head(hidden + self.second(hidden).relu() + x[:, 3:].sum(1, True))
        return logits


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).relu())
        return logits


def check(
    layer: str,
    teacher: nn.Module,
    student: nn.Module,
    batches: list[PairedBatch],
    permutations: int = 2,
    score: FeatureScore = "ncjsd",
) -> Saliency:
    algorithm = FeatureSaliency(layer, permutations, seed=3, score=score)
    result = algorithm.compute(teacher, student, batches)
    values, unmasked = naive(algorithm, teacher, student, batches)
    assert result.values.dtype == torch.float64
    torch.testing.assert_close(result.values, values, atol=2e-7, rtol=1e-5)
    assert result.unmasked == pytest.approx(unmasked, abs=1e-6)
    assert result.score == score
    assert result.values.abs().max() > 1e-5
    return result


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Tanh])
@pytest.mark.parametrize("layer", ["input", "hidden1", "hidden1.0", "hidden2", "head", "logits"])
def test_equals_the_naive_loop_on_an_mlp(layer: str, activation: type[nn.Module]) -> None:
    result = check(layer, *mlps(activation), make_batches(9, 9, 4))
    assert result.n_samples == 22


def test_float64_networks_agree_to_rounding() -> None:
    teacher, student = (network.double() for network in mlps())
    batches = make_batches(9, 5)
    for batch in batches:
        batch["teacher"], batch["student"] = batch["teacher"].double(), batch["student"].double()
    algorithm = FeatureSaliency("hidden1", 3)
    values = algorithm.compute(teacher, student, batches).values
    teacher64 = copy.deepcopy(teacher)
    algorithm_naive = naive_float64(algorithm, teacher64, student, batches)
    torch.testing.assert_close(values, algorithm_naive, atol=1e-15, rtol=1e-12)


def naive_float64(
    algorithm: FeatureSaliency, teacher: nn.Module, student: nn.Module, batches: list[PairedBatch]
) -> Tensor:
    """The loop at ``hidden1`` of an MLP, written without hooks."""
    sums, rows = torch.zeros(8, dtype=torch.float64), 0
    with torch.no_grad():
        for number, batch in enumerate(batches):
            hidden = teacher.hidden1(batch["teacher"])
            other, target = student(batch["student"]), batch["target"]
            before = ncjsd(teacher.head(teacher.hidden2(hidden)), other, target)
            rows += len(target)
            for m in range(algorithm.permutations):
                stream = generator(algorithm.seed, "saliency", m, number)
                order = torch.randperm(len(target), generator=stream)
                for feature in range(8):
                    changed = hidden.clone()
                    changed[:, feature] = hidden[order, feature]
                    after = ncjsd(teacher.head(teacher.hidden2(changed)), other, target)
                    sums[feature] += (before - after).sum()
    return sums / rows / algorithm.permutations


@pytest.mark.parametrize("layer", ["input", "0", "4", "5"])
def test_equals_the_naive_loop_on_a_convolutional_chain(layer: str) -> None:
    torch.manual_seed(1)
    check(layer, conv_net(), conv_net(), make_batches(7, 3, shape=(1, 6, 5)))


@pytest.mark.parametrize("layer", ["input", "first", "second"])
def test_equals_the_naive_loop_on_any_network(layer: str) -> None:
    torch.manual_seed(1)
    check(layer, Residual(), Residual(), make_batches(7, 3))


def test_takes_several_inputs() -> None:
    torch.manual_seed(1)
    batches = make_batches(7, 3)
    for batch in batches:
        assert isinstance(batch["teacher"], Tensor)
        batch["teacher"] = {"x": batch["teacher"][:, :3], "y": batch["teacher"][:, 3:]}
    teacher, student = Residual(), Residual()
    check("second", teacher, student, batches)
    with pytest.raises(UserError, match="several inputs"):
        FeatureSaliency("input").compute(teacher, student, batches)


@pytest.mark.parametrize("layer", ["hidden2", "branches", "branches.student.hidden1"])
@pytest.mark.parametrize("fusion", [LateFusion, ConcatFusion, GatedFusion])
def test_takes_both_modalities(fusion: Callable[..., nn.Module], layer: str) -> None:
    batches = make_batches(9, 9, 4)
    for batch in batches:
        batch["teacher"] = both_inputs(batch["teacher"], batch["student"])
    torch.manual_seed(1)
    parts = mlps()
    teacher = fusion(lambda: parts[0], lambda: parts[1])
    check(layer, teacher, mlps()[1], batches)


def test_follows_the_hidden_layer_of_a_fusion_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The branches, most of the network, run once a batch and not once a feature."""
    parts = mlps()
    teacher = ConcatFusion(lambda: parts[0], lambda: parts[1])
    inputs = both_inputs(torch.randn(9, 6), torch.randn(9, 6))
    student = torch.randn(9, CLASSES), torch.arange(9) % CLASSES
    with torch.no_grad():
        permuted = PermutedTeacher(teacher, "hidden2", inputs, *student, 255)
        monkeypatch.setattr(teacher.branches, "forward", pytest.fail)
        assert permuted.linear_at == 0
        assert permuted.difference(torch.arange(9).flip(0)).shape == (128,)


@pytest.mark.parametrize("layer", ["input", "body"])
def test_dense_targets_count_pixel_by_pixel(layer: str) -> None:
    torch.manual_seed(1)
    batches = make_batches(3, 2, shape=(1, 4, 3), target_shape=(4, 3))
    batches[0]["target"][0, :2] = 255
    assert check(layer, Dense(), Dense(), batches).n_samples == 5 * 12 - 6


@pytest.mark.parametrize("layer", ["input", "hidden1"])
def test_ignored_targets_do_not_count(layer: str) -> None:
    batches = make_batches(9, 4, 4)
    batches[0]["target"][[0, 5]] = 255
    batches[1]["target"][:] = 255
    assert check(layer, *mlps(), batches).n_samples == 11
    for batch in batches:
        batch["target"][:] = 255
    with pytest.raises(UserError, match="ignore_index"):
        FeatureSaliency(layer).compute(*mlps(), batches)


def test_the_student_counts_only_through_its_logits() -> None:
    batches = make_batches(9)
    teacher, _ = mlps()
    assert FeatureSaliency("hidden1").compute(teacher, teacher, batches).unmasked > 0
    for batch in batches:
        batch["student"] = batch["teacher"]
    same = FeatureSaliency("hidden1").compute(teacher, teacher, batches)
    assert same.unmasked == pytest.approx(0, abs=1e-15)
    assert (same.values <= 0).all()  # whatever is permuted, the networks can only move apart


def test_a_batch_of_one_gives_zero() -> None:
    for layer in ("input", "hidden1"):
        saliency = FeatureSaliency(layer).compute(*mlps(), make_batches(1))
        assert saliency.values.tolist() == [0.0] * len(saliency.values)
        assert saliency.normalised().tolist() == [0.0] * len(saliency.values)


@pytest.mark.parametrize("layer", ["input", "hidden1"])
def test_skipping_unchanged_values_changes_nothing(
    layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = make_batches(40, 30)
    for batch in batches:
        assert isinstance(batch["teacher"], Tensor)
        batch["teacher"] = (batch["teacher"] > 0.8).float()
        batch["teacher"][:, 2] = 0.0
    ways = {"_by_changed_rows": 0, "_by_rank_one": 0}

    def count(name: str) -> None:
        way = getattr(PermutedTeacher, name)

        def counted(self: PermutedTeacher, *args: Tensor) -> Tensor:
            ways[name] += 1
            result: Tensor = way(self, *args)
            return result

        monkeypatch.setattr(PermutedTeacher, name, counted)

    for name in ways:
        count(name)
    results = {}
    for threshold in (0.0, 2.0):
        monkeypatch.setattr(permuted_module, "_SPARSE_BELOW", threshold)
        results[threshold] = FeatureSaliency(layer).compute(*mlps(nn.ReLU), batches).values
    assert ways == {"_by_changed_rows": 10, "_by_rank_one": 10}
    torch.testing.assert_close(results[0.0], results[2.0], atol=1e-8, rtol=1e-6)
    if layer == "input":
        assert results[2.0][2] == 0.0
    check(layer, *mlps(nn.ReLU), batches)


@pytest.mark.parametrize("layer", ["input", "hidden1", "0", "first"])
def test_the_chunk_does_not_matter(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"0": lambda: (conv_net(), conv_net()), "first": lambda: (Residual(), Residual())}
    networks = kinds.get(layer, mlps)()
    batches = make_batches(9, 4, shape=(1, 6, 5) if layer == "0" else (6,))
    results = []
    for chunk in (1, 3, 16, 1000):
        monkeypatch.setattr(permuted_module, "_CHUNK", chunk)
        results.append(FeatureSaliency(layer, 2).compute(*networks, batches).values)
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, atol=1e-8, rtol=1e-6)


def test_repeats_bitwise_and_depends_on_the_seed() -> None:
    batches, networks = make_batches(9, 4), mlps()
    first = FeatureSaliency("hidden1", seed=1).compute(*networks, batches).values
    assert torch.equal(first, FeatureSaliency("hidden1", seed=1).compute(*networks, batches).values)
    assert not torch.equal(
        first, FeatureSaliency("hidden1", seed=2).compute(*networks, batches).values
    )


def test_does_not_touch_the_networks_modes_or_inputs() -> None:
    torch.manual_seed(1)
    teacher, student = conv_net(), conv_net()
    student[3].eval()
    batches = make_batches(5, shape=(1, 6, 5))
    inputs, state = batches[0]["teacher"].clone(), copy.deepcopy(teacher.state_dict())
    for layer in ("input", "0", "1"):
        FeatureSaliency(layer, 1).compute(teacher, student, batches)
    assert all(module.training for module in teacher.modules())
    assert student.training
    assert not student[3].training
    assert torch.equal(inputs, batches[0]["teacher"])
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in state.items())
    assert not any(module._forward_hooks for module in teacher.modules())


def test_a_mask_in_place_is_respected() -> None:
    """A hook on a container is invisible to the chain: the values must show it all the same."""
    teacher, student = mlps()
    mask_layer(teacher, "hidden2", LayerMask.zeroing(torch.arange(7) > 3))
    check("hidden1", teacher, student, make_batches(9))


def test_a_feature_that_is_cut_off_has_no_saliency() -> None:
    teacher, student = mlps()
    with torch.no_grad():
        teacher.hidden2[0].weight[:, 5] = 0
    values = FeatureSaliency("hidden1").compute(teacher, student, make_batches(30)).values
    assert abs(values[5]) < 1e-9
    assert values.abs().median() > 1e-5


def test_ranks_tiny_differences() -> None:
    """Saliencies of 1e-10 to 1e-7, below the float32 rounding of a sample, keep their order."""
    teacher, student = mlps()
    with torch.no_grad():
        teacher.hidden2[0].weight *= torch.logspace(-4, -2, 8)
    batches = make_batches(*[128] * 8)
    algorithm = FeatureSaliency("hidden1", 2)
    values = algorithm.compute(teacher, student, batches).values
    expected, _ = naive(algorithm, teacher, student, batches)
    assert 1e-10 < expected.abs().min() < expected.abs().max() < 1e-6
    torch.testing.assert_close(values, expected, atol=1e-10, rtol=0)
    assert values.argsort().tolist() == expected.argsort().tolist()


def test_unknown_and_idle_layers_are_errors() -> None:
    teacher, student = mlps()
    with pytest.raises(UserError, match="choose one of input, 0, hidden1"):
        FeatureSaliency("hidden9").compute(teacher, student, make_batches(3))
    residual = Residual()
    residual.idle = nn.Linear(2, 2)
    with pytest.raises(UserError, match="'idle' gives no features"):
        FeatureSaliency("idle").compute(residual, residual, make_batches(3))


def test_logits_that_are_not_finite_are_an_error() -> None:
    teacher, student = mlps()
    with torch.no_grad():
        student.head.bias[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        FeatureSaliency("hidden1").compute(teacher, student, make_batches(9))


@pytest.mark.parametrize("layer", ["input", "hidden1", "hidden1.0", "hidden2", "head", "logits"])
def test_mean_squares_equal_the_naive_loop_on_an_mlp(layer: str) -> None:
    batches = make_batches(9, 9, 4)
    batches[1]["target"][:4] = 255
    assert check(layer, *mlps(), batches, score="mse").n_samples == 18


@pytest.mark.parametrize(
    ("layer", "make", "shape", "target"),
    [
        ("0", conv_net, (1, 6, 5), ()),
        ("first", Residual, (6,), ()),
        ("body", Dense, (1, 4, 3), (4, 3)),
    ],
)
def test_mean_squares_equal_the_naive_loop_on_any_network(
    layer: str, make: Callable[[], nn.Module], shape: tuple[int, ...], target: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    batches = make_batches(7, 3, shape=shape, target_shape=target)
    check(layer, make(), make(), batches, score="mse")


@pytest.mark.parametrize("threshold", [0.0, 2.0], ids=["all rows", "changed rows"])
def test_mean_squares_where_values_stay(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permuted_module, "_SPARSE_BELOW", threshold)
    check("hidden1", *mlps(nn.ReLU), make_batches(40), score="mse")


def test_mean_squares_rank_as_the_authors_of_mfh_do() -> None:
    """They sum the squares of whole batches, unmasked ones aside, and remove the lowest first."""
    teacher, student = mlps()
    (batch,) = make_batches(64)
    algorithm = FeatureSaliency("hidden1", 10, score="mse")
    ours = algorithm.compute(teacher, student, [batch]).values.argsort(descending=True)
    saliency = torch.zeros(8, dtype=torch.float64)
    with torch.no_grad():
        hidden, other = teacher.hidden1(batch["teacher"]), student(batch["student"])
        for m in range(10):
            order = torch.randperm(64, generator=generator(0, "saliency", m, 0))
            for feature in range(8):
                changed = hidden.clone()
                changed[:, feature] = hidden[order, feature]
                logits = teacher.head(teacher.hidden2(changed))
                saliency[feature] += (other - logits).double().pow(2).sum() / other.numel()
    assert ours.tolist() == saliency.argsort().tolist()
    by_ncjsd = FeatureSaliency("hidden1", 10).compute(teacher, student, [batch]).values
    assert ours.tolist() != by_ncjsd.argsort(descending=True).tolist()


@pytest.mark.parametrize("layer", ["hidden1", "logits"])
def test_mean_squares_leave_float64_logits_alone(layer: str) -> None:
    algorithm = FeatureSaliency(layer, 2, score="mse")
    (batch,) = make_batches(12)
    expected = algorithm.compute(*mlps(), [batch]).values
    batch["teacher"], batch["student"] = batch["teacher"].double(), batch["student"].double()
    found = algorithm.compute(*(network.double() for network in mlps()), [batch]).values
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_an_unknown_score_is_an_error() -> None:
    with pytest.raises(UserError, match=r"mask\.score is 'kendall': choose one of ncjsd, mse"):
        FeatureSaliency("input", score=cast(Any, "kendall"))


@pytest.mark.parametrize("score", ["ncjsd", "mse"])
def test_saves_and_loads(score: FeatureScore, tmp_path: Path) -> None:
    batches = make_batches(9)
    saliency = FeatureSaliency("hidden1", 2, 7, score).compute(*mlps(), batches)
    if score == "mse":
        saliency = dataclasses.replace(saliency, unmasked=80.0)
    path = tmp_path / "new" / "saliency.npz"
    saliency.save(path)
    loaded = Saliency.load(path)
    assert torch.equal(loaded.values, saliency.values)
    assert (loaded.layer, loaded.seed, loaded.permutations) == ("hidden1", 7, 2)
    assert (loaded.unmasked, loaded.n_samples) == (saliency.unmasked, 9)
    assert loaded.score == score
    assert [entry.name for entry in path.parent.iterdir()] == ["saliency.npz"]


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "saliency.npz"
    with pytest.raises(UserError, match=r"saliency\.npz"):
        Saliency.load(path)
    path.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UserError, match="delete it"):
        Saliency.load(path)


@pytest.mark.parametrize(
    ("score", "unmasked"), [("ncjsd", 0.7), ("ncjsd", -0.1), ("mse", -0.1), ("kl", 0.1)]
)
def test_a_file_of_values_that_cannot_be_is_an_error(
    score: str, unmasked: float, tmp_path: Path
) -> None:
    path = tmp_path / "saliency.npz"
    Saliency(torch.zeros(3).double(), unmasked, "x", 1, 0, 1, cast(Any, score)).save(path)
    with pytest.raises(UserError, match="no score, or one beyond its bounds; delete it"):
        Saliency.load(path)


def test_normalised_lies_between_0_and_1() -> None:
    values = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)
    assert Saliency(values, 0.1, "x", 1, 0, 1).normalised().tolist() == [0.0, 0.5, 1.0]
    constant = Saliency(torch.full((3,), 0.7), 0.1, "x", 1, 0, 1)
    assert constant.normalised().tolist() == [0.0, 0.0, 0.0]
