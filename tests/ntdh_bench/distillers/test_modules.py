"""The modules: layers, weights, trainable parts."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ntdh_bench.distillers import (
    CC,
    CRD,
    DIST,
    DKD,
    KD,
    MLKD,
    NKD,
    OFA,
    PKT,
    RKD,
    SKD,
    SP,
    SRD,
    VID,
    WTTM,
    Combined,
    Distiller,
    FitNet,
    WeightedKL,
    functional,
)
from ntdh_bench.distillers.predictions import instance_level, relation_levels
from ntdh_bench.divergence import nckl, tckl
from ntdh_bench.errors import UserError
from ntdh_bench.layers import AVERAGED_LOGITS
from tests.helpers import methods
from tests.typed import some

ROWS, CLASSES = 6, 4
METHODS = methods("hidden2")
FEATURE_METHODS = [kind.func for kind in METHODS.values() if not kind.func.by_row]
LOGIT_METHODS = [kind.func for kind in METHODS.values() if kind.func.by_row]
WIDTHS = {"logits": CLASSES, "hidden2": 5}, {"logits": CLASSES, "hidden2": 3}


def outputs(seed: int, width: int) -> dict[str, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return {
        "logits": torch.randn(ROWS, CLASSES, generator=stream),
        "hidden2": torch.randn(ROWS, width, generator=stream),
    }


STUDENT, TEACHER = outputs(0, 5), outputs(1, 3)
TARGET, INDEX = torch.arange(ROWS) % CLASSES, torch.arange(ROWS)


@pytest.mark.parametrize("method", LOGIT_METHODS)
def test_logit_methods(method: type[Distiller]) -> None:
    distiller = method(weight=2.5)
    assert distiller.student_layers == distiller.teacher_layers == ["logits"]
    extra = [TARGET] if "target" in inspect.signature(distiller.forward).parameters else []
    arguments = [STUDENT["logits"], TEACHER["logits"], *extra]
    loss = distiller.distill(STUDENT, TEACHER, TARGET, INDEX)
    torch.testing.assert_close(loss, 2.5 * distiller(*arguments))


@pytest.mark.parametrize("method", FEATURE_METHODS)
def test_feature_methods(method: type[Distiller]) -> None:
    distiller = method(layer="hidden2", weight=2.5).eval()
    assert distiller.student_layers == distiller.teacher_layers == ["hidden2"]
    distiller.build(*WIDTHS, ROWS, seed=0)
    arguments = [STUDENT["hidden2"], TEACHER["hidden2"], *([INDEX] if method is CRD else [])]
    if method is SRD:
        arguments += [STUDENT["logits"], TEACHER["logits"]]
    loss = distiller.distill(STUDENT, TEACHER, TARGET, INDEX)
    torch.testing.assert_close(loss, 2.5 * distiller(*arguments))


@pytest.mark.parametrize("method", FEATURE_METHODS)
def test_layers_may_differ_but_must_be_named(method: type[Distiller]) -> None:
    distiller = method(layer="hidden1", teacher_layer="block3")
    assert (distiller.student_layers, distiller.teacher_layers) == (["hidden1"], ["block3"])
    with pytest.raises(UserError, match=r"distiller\.layer"):
        _ = method().student_layers
    with pytest.raises(UserError, match="teacher_layer"):
        _ = method(student_layer="hidden1").teacher_layers


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_bad_weight(weight: float) -> None:
    with pytest.raises(UserError, match=r"distiller\.weight"):
        KD(weight=weight)


def test_a_method_has_the_defaults_of_its_function() -> None:
    compared = []
    for name, method in METHODS.items():
        function = getattr(functional, name.lower(), None)
        defaults = inspect.signature(function).parameters.values() if function else ()
        for parameter in defaults:
            given = parameter.name in ("stacked", "share", "temperatures")  # by what calls it
            if parameter.default is not inspect.Parameter.empty and not given:
                own = inspect.signature(method.func).parameters[parameter.name]
                assert own.default == parameter.default
                compared.append((name, parameter.name))
    assert {name for name, _ in compared} >= {
        "KD", "DKD", "RKD", "CRD", "NKD", "DIST", "WTTM", "OFA"
    }  # fmt: skip


def test_modules_call_the_functions() -> None:
    student, teacher = STUDENT["logits"], TEACHER["logits"]
    for module, expected in (
        (KD(2.0), functional.kd(student, teacher, 2.0)),
        (RKD(1.0, 2.0), functional.rkd(student, teacher, 1.0, 2.0)),
        (PKT(), functional.pkt(student, teacher)),
        (SP(), functional.sp(student, teacher)),
        (DIST(2, 3, 4), functional.dist(student, teacher, 2, 3, 4)),
        (WTTM(2), functional.wttm(student, teacher, 2)),
        (MLKD(), functional.mlkd(student, teacher)),
        (SKD(2, 3), functional.skd(student, teacher, 2, 3)),
        (CC(0.5, 3), functional.cc(student, teacher, 0.5, 3)),
        (MLKD([1, 3]), functional.mlkd(student, teacher, [1, 3])),
        (KD(2, standardize=True), functional.kd(student, teacher, 2, standardize=True)),
    ):
        torch.testing.assert_close(module(student, teacher), expected, rtol=0, atol=0)
    for module, expected in (
        (DKD(1, 2, 3), functional.dkd(student, teacher, TARGET, 1, 2, 3)),
        (NKD(2, 3), functional.nkd(student, teacher, TARGET, 2, 3)),
        (OFA(eps=1.5, temperature=2), functional.ofa(student, teacher, TARGET, 1.5, 2)),
    ):
        torch.testing.assert_close(module(student, teacher, TARGET), expected, rtol=0, atol=0)


def test_weighted_kl() -> None:
    student, teacher = STUDENT["logits"], TEACHER["logits"]
    target_part = tckl(teacher, student, TARGET, binary=True).mean()
    other_part = nckl(teacher, student, TARGET).mean()
    loss = WeightedKL(alpha=3.0, beta=0.25)(student, teacher, TARGET)
    torch.testing.assert_close(loss, 3 * target_part + 0.25 * other_part)


def test_standardised_logits() -> None:
    sides = STUDENT["logits"], TEACHER["logits"]
    for method in (DKD, WeightedKL):
        plain, standardised = (method(standardize=flag)(*sides, TARGET) for flag in (False, True))
        moved = method(standardize=True)(sides[0] * 5 + 1, sides[1] - 2, TARGET)
        assert not torch.isclose(plain, standardised, rtol=1e-3)
        torch.testing.assert_close(moved, standardised, rtol=1e-4, atol=1e-6)


def ofa(*exits: str, seed: int = 0) -> OFA:
    distiller = OFA(list(exits), eps=1.5, weight=0.5)
    distiller.build({**WIDTHS[0], "maps": 3}, WIDTHS[1], ROWS, seed)
    return distiller


def test_ofa_adds_the_exits_to_the_logits() -> None:
    distiller = ofa("hidden2", "maps")
    assert distiller.student_layers == ["logits", "hidden2", "maps"]
    assert distiller.teacher_layers == ["logits"]
    maps = torch.randn(ROWS, 3, 2, 4)
    with torch.no_grad():
        exits = [
            projector(features)
            for projector, features in zip(
                distiller.projectors, (STUDENT["hidden2"], maps.mean((2, 3))), strict=True
            )
        ]
        assert [list(x.shape) for x in exits] == [[ROWS, CLASSES]] * 2
        expected = sum(
            functional.ofa(x, TEACHER["logits"], TARGET, 1.5) for x in (STUDENT["logits"], *exits)
        )
        loss = distiller.distill(STUDENT | {"maps": maps}, TEACHER, TARGET, INDEX)
    torch.testing.assert_close(loss, 0.5 * expected)


def test_the_exits_of_ofa_come_from_the_seed_and_are_trained() -> None:
    first, same, other = (ofa("hidden2", seed=seed).state_dict() for seed in (7, 7, 8))
    assert len(first) == 4
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    distiller = ofa("hidden2")
    student = {name: value.clone().requires_grad_() for name, value in STUDENT.items()}
    distiller.distill(student, TEACHER, TARGET, INDEX).backward()
    trained = [*distiller.parameters(), *student.values()]
    assert all(some(x.grad).abs().sum() > 0 for x in trained)


def test_ofa_says_where_there_are_no_exits() -> None:
    with pytest.raises(UserError, match="drop them"):
        OFA(["logits"])
    dense, flat = (
        {"logits": torch.Size(size), "hidden2": torch.Size([5])} for size in ([4, 8, 8], [4])
    )
    with pytest.raises(UserError, match="no exits in dense tasks"):
        ofa("hidden2").check(dense, dense, aligned=True)
    ofa("hidden2").check(flat, flat, aligned=False)
    OFA().check(dense, dense, aligned=True)


def test_mlkd_relates_samples_not_positions() -> None:
    rows = STUDENT["logits"], TEACHER["logits"]
    samples = rows[0][:2] * 3, rows[1][:2] - 1
    sides = (
        {"logits": row, AVERAGED_LOGITS: sample} for row, sample in zip(rows, samples, strict=True)
    )
    loss = MLKD([2.0, 3.0], weight=0.5).distill(*sides, TARGET, INDEX)
    expected = instance_level(*rows, [2.0, 3.0]) + relation_levels(*samples, [2.0, 3.0])
    torch.testing.assert_close(loss, 0.5 * expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NKD(gamma=-1), "gamma"),
        (lambda: NKD(temperature=0), "temperature"),
        (lambda: DIST(beta=-1), "beta"),
        (lambda: WTTM(temperature=math.inf), "temperature"),
        (lambda: MLKD([]), "temperatures is empty"),
        (lambda: MLKD([4.0, 0.0]), "temperatures"),
        (lambda: OFA(eps=0), "eps"),
        (lambda: SKD(ridge=0), "ridge"),
        (lambda: CC(gamma=0, layer="hidden2"), "gamma"),
        (lambda: CC(order=0, layer="hidden2"), "order"),
    ],
)
def test_bad_numbers(make: Callable[[], Distiller], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("method", [FitNet, CRD, VID, SRD])
def test_trainable_parts_come_from_the_seed(method: type[Distiller]) -> None:
    built = []
    for seed in (7, 7, 8):
        torch.manual_seed(len(built))
        before = torch.get_rng_state()
        distiller = method(layer="hidden2")
        distiller.build(*WIDTHS, ROWS, seed)
        assert torch.equal(torch.get_rng_state(), before)
        built.append(distiller)
    first, same, other = (b.state_dict() for b in built)
    weights = [name for name in first if "weight" in name or "memory" in name]
    assert all(torch.equal(first[name], same[name]) for name in weights)
    assert not any(torch.equal(first[name], other[name]) for name in weights)
    assert all(p.requires_grad for p in built[0].parameters())


@pytest.mark.parametrize("method", [FitNet, CRD])
def test_sizes_given_must_fit(method: type[Distiller]) -> None:
    sizes = {"student_dim": 5, "teacher_dim": 3} | ({"n_data": ROWS} if method is CRD else {})
    distiller = method(**sizes, layer="hidden2")
    before = [p.clone() for p in distiller.parameters()]
    distiller.build(*WIDTHS, ROWS, seed=0)
    for old, new in zip(before, distiller.parameters(), strict=True):
        assert torch.equal(old, new)
    with pytest.raises(UserError, match="leave them out"):
        distiller.build({"hidden2": 6}, WIDTHS[1], ROWS, seed=0)


def test_fitnet_regresses_features_and_maps() -> None:
    fitnet = FitNet(5, 3)
    with torch.no_grad():
        loss = fitnet(STUDENT["hidden2"], TEACHER["hidden2"])
        assert fitnet.regressor is not None
        regressed = fitnet.regressor(STUDENT["hidden2"])
        torch.testing.assert_close(loss, (regressed - TEACHER["hidden2"]).square().mean())
        maps, wanted = torch.randn(2, 5, 3, 4), torch.randn(2, 3, 3, 4)
        weight = fitnet.regressor.weight[:, :, None, None]
        convolved = torch.nn.functional.conv2d(maps, weight, fitnet.regressor.bias)
        torch.testing.assert_close(fitnet(maps, wanted), (convolved - wanted).square().mean())
    with pytest.raises(ValueError, match="differ"):
        fitnet(maps, wanted[..., :2])
    with pytest.raises(UserError, match="no regressor"):
        FitNet()(STUDENT["hidden2"], TEACHER["hidden2"])


def test_fitnet_under_autocast() -> None:
    fitnet = FitNet(5, 3)
    student = STUDENT["hidden2"].clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = fitnet(student, TEACHER["hidden2"])
    loss.backward()
    assert loss.dtype == torch.float32
    assert some(student.grad).isfinite().all()


def test_combined() -> None:
    fitnet = FitNet(layer="hidden2", weight=3.0)
    combined = Combined([KD(1.0), fitnet, SP(student_layer="logits", teacher_layer="hidden2")])
    assert combined.student_layers == ["logits", "hidden2"]
    combined = Combined([KD(1.0), fitnet], [0.5, 0.1])
    combined.build(*WIDTHS, ROWS, seed=0)
    assert len(list(combined.parameters())) == 2
    loss = combined.distill(STUDENT, TEACHER, TARGET, INDEX)
    kd = functional.kd(STUDENT["logits"], TEACHER["logits"], 1.0)
    hint = fitnet(STUDENT["hidden2"], TEACHER["hidden2"])
    torch.testing.assert_close(loss, 0.5 * kd + 0.3 * hint)


def test_combined_needs_a_weight_for_each_term() -> None:
    with pytest.raises(UserError, match="one weight each"):
        Combined([KD()], [1.0, 2.0])
    with pytest.raises(UserError, match="at least one"):
        Combined([])


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_no_rows(make: Callable[[], Distiller]) -> None:
    distiller = make()
    distiller.build(*WIDTHS, ROWS, seed=0)
    student = {name: x[:0].clone().requires_grad_() for name, x in STUDENT.items()}
    teacher = {name: x[:0] for name, x in TEACHER.items()}
    loss = distiller.distill(student, teacher, TARGET[:0], INDEX[:0])
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize(("method", "least"), [(RKD, 3), (PKT, 2), (SP, 2), (CC, 2)])
def test_batches_too_small_for_relations_are_said_once(
    method: type[Distiller], least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    distiller = method(layer="hidden2")
    student, teacher = outputs(0, 5), outputs(1, 7)

    def loss(rows: int) -> float:
        few = [{name: value[:rows] for name, value in side.items()} for side in (student, teacher)]
        return float(distiller.distill(few[0], few[1], torch.zeros(rows), torch.arange(rows)))

    assert loss(least) > 1e-3
    assert capsys.readouterr().err == ""
    assert loss(least - 1) == loss(least - 1) == pytest.approx(0, abs=1e-9)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"its loss is 0 in one of {least - 1}" in line
