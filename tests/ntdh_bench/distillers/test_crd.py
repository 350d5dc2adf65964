"""CRD against loops written from its paper, and what its memory keeps."""

from __future__ import annotations

import copy
import io
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ntdh_bench.distillers import CRD, Distiller
from ntdh_bench.distillers.ranks import gather_rows, rank
from ntdh_bench.errors import UserError
from ntdh_bench.seeding import generator
from tests.helpers import run_two_processes
from tests.typed import some

N_DATA, BATCH, NEGATIVES = 30, 4, 7


def make(**changes: object) -> CRD:
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "student_dim": 5, "teacher_dim": 3, "n_data": N_DATA, "feat_dim": 6,
        "negatives": NEGATIVES, "layer": "hidden",
    }  # fmt: skip
    return CRD(**(settings | changes)).double()  # type: ignore[arg-type]


def build(crd: CRD, seed: int) -> None:
    crd.build({"hidden": 5}, {"hidden": 3}, N_DATA, seed)


def draw(seed: int = 0, rows: int = BATCH) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, 5, generator=stream, dtype=torch.float64)
    teacher = torch.randn(rows, 3, generator=stream, dtype=torch.float64)
    index = torch.randperm(N_DATA, generator=stream)[:rows]
    return student, teacher, index, torch.randint(N_DATA, (rows, NEGATIVES), generator=stream)


class Naive:
    """The same state, one sample and one contrast at a time."""

    def __init__(self, crd: CRD) -> None:
        self.crd = copy.deepcopy(crd)
        self.memory = [self.crd.student_memory.clone(), self.crd.teacher_memory.clone()]
        self.z: list[float] = []

    def step(
        self, student: Tensor, teacher: Tensor, index: Tensor, negatives: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        layers = self.crd.student_embedding, self.crd.teacher_embedding
        embedded: list[list[Tensor]] = [[], []]
        for layer, features, rows in zip(layers, (student, teacher), embedded, strict=True):
            assert layer is not None
            for x in features:
                y = layer.weight @ x + layer.bias
                rows.append(y / y.norm())
        contrasts = torch.cat([index[:, None], negatives], 1).tolist()
        scores = [
            [
                [torch.exp(bank[j] @ e / self.crd.temperature) for j in columns]
                for e, columns in zip(rows, contrasts, strict=True)
            ]
            for rows, bank in zip(embedded, self.memory[::-1], strict=True)
        ]
        if not self.z:
            for side in scores:
                flat = [score.item() for row in side for score in row]
                self.z.append(sum(flat) / len(flat) * N_DATA)
        noise = negatives.shape[1] / N_DATA
        loss = torch.zeros((), dtype=torch.float64)
        for side, z in zip(scores, self.z, strict=True):
            for first, *others in side:
                loss = loss - torch.log(first / z / (first / z + noise + 1e-7))
                for score in others:
                    loss = loss - torch.log(noise / (score / z + noise + 1e-7))
        loss = loss / len(index)
        gradients = list(torch.autograd.grad(loss, list(self.crd.parameters())))
        for bank, rows in zip(self.memory, embedded, strict=True):
            old = bank.clone()
            for i, e in zip(index.tolist(), rows, strict=True):
                mixed = self.crd.momentum * old[i] + (1 - self.crd.momentum) * e.detach()
                bank[i] = mixed / mixed.norm()
        return loss.detach(), gradients


@pytest.mark.parametrize(("number", "bank_ratio"), [(7, 64), (40, 64), (7, 0)])
def test_steps_against_loops(number: int, bank_ratio: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways to read the bank, with a repeated sample in the second batch."""
    monkeypatch.setattr("ntdh_bench.distillers.negatives.MAX_BANK_RATIO", bank_ratio)
    crd = make(momentum=0.8)  # at a half, old and new rows could be mistaken for each other
    naive = Naive(crd)
    for seed in range(3):
        student, teacher, index, _ = draw(seed)
        negatives = torch.randint(N_DATA, (BATCH, number))
        if seed == 1:
            index[3] = index[0]
        loss = crd(student, teacher, index, negatives)
        gradients = torch.autograd.grad(loss, list(crd.parameters()))
        expected, expected_gradients = naive.step(student, teacher, index, negatives)
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(list(gradients), expected_gradients, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(crd.log_z.exp().tolist(), naive.z)
        torch.testing.assert_close([crd.student_memory, crd.teacher_memory], naive.memory)


def test_gradcheck() -> None:
    crd = make().eval()
    student, teacher, index, negatives = draw()
    crd.log_z.fill_(10.0)  # a constant, as it is after the first step
    inputs = student.requires_grad_(), teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: crd(s, t, index, negatives), inputs)


def test_shared_negatives_against_loops() -> None:
    """The variant: every sample has the negatives of the batch."""
    crd = make(shared_negatives=True)
    naive = Naive(crd)
    for step in range(2):
        student, teacher, index, negatives = draw(step)
        given = (negatives[0],) if step else ()
        if not given:
            stream = generator(0, "crd shared", 0, 0)
            negatives = torch.randint(N_DATA, (1, NEGATIVES), generator=stream)
        expected, gradients = naive.step(
            student, teacher, index, negatives[:1].expand(BATCH, NEGATIVES)
        )
        loss = crd(student, teacher, index, *given)
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=0)
        ours = list(torch.autograd.grad(loss, list(crd.parameters())))
        torch.testing.assert_close(ours, gradients, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close([crd.student_memory, crd.teacher_memory], naive.memory)


def test_another_number_of_negatives() -> None:
    student, teacher, index, negatives = draw()
    for given in (negatives[:, :3], torch.cat([index[:, None], negatives], 1)):
        crd = make()
        expected, _ = Naive(crd).step(student, teacher, index, given)
        torch.testing.assert_close(crd(student, teacher, index, given).detach(), expected)


def test_negatives_are_those_of_seed_and_step() -> None:
    """The published sampling: a stream of (seed, step, rank), whatever else is drawn."""
    student, teacher, index, _ = draw()
    for seed in (1, 2):
        drawing, told = make(), make()
        build(drawing, seed)
        for step in range(2):
            stream = generator(seed, "crd", step, 0)
            negatives = torch.randint(N_DATA, (BATCH, NEGATIVES), generator=stream)
            torch.rand(7)  # the global generator plays no part
            expected = told(student, teacher, index, negatives)
            assert torch.equal(drawing(student, teacher, index), expected)
        drawing.step.zero_()
        assert not torch.equal(
            drawing(student, teacher, index), told(student, teacher, index, negatives)
        )


def test_resumed_run_goes_on_the_same() -> None:
    batches = [draw(seed)[:3] for seed in range(4)]
    whole, first = make(), make()
    losses = [whole(*batch) for batch in batches]
    for batch in batches[:2]:
        first(*batch)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    torch.manual_seed(99)
    resumed = CRD(feat_dim=6, negatives=NEGATIVES, layer="hidden").double()
    build(resumed, seed=0)
    resumed.double().load_state_dict(torch.load(file, weights_only=True))
    for batch, loss in zip(batches[2:], losses[2:], strict=True):
        assert torch.equal(resumed(*batch), loss)


def test_z_is_fixed_at_the_first_step() -> None:
    crd = make()
    crd(*draw(0))
    first = crd.log_z.clone()
    crd(*draw(1))
    assert first.isfinite().all()
    assert torch.equal(crd.log_z, first)


def test_evaluation_changes_nothing() -> None:
    crd = make().eval()
    before = copy.deepcopy(crd.state_dict())
    assert crd(*draw()).isfinite()
    for name, value in crd.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_memory_can_be_updated_before_backward() -> None:
    crd = make()
    losses = crd(*draw(0)) + crd(*draw(1))
    losses.backward()
    assert some(crd.student_embedding).weight.grad is not None
    copy.deepcopy(crd)  # no buffer is part of a graph


@pytest.mark.parametrize("rows", [0, 1])
def test_small_batches(rows: int) -> None:
    crd = make()
    student, teacher, index, _ = draw(rows=rows)
    student.requires_grad_()
    loss = crd(student, teacher, index)
    loss.backward()
    assert loss.isfinite()
    assert some(student.grad).isfinite().all()
    assert crd.student_memory.isfinite().all()
    loss = crd(*draw())  # the normalisers come from the first batch that is not empty
    assert loss.isfinite()
    assert crd.log_z.isfinite().all()


def test_zero_embeddings() -> None:
    crd = make()
    torch.nn.init.zeros_(some(crd.student_embedding).bias)
    student, teacher, index, _ = draw()
    student[:] = 0
    student.requires_grad_()
    for _ in range(2):
        loss = crd(student, teacher, index)
        loss.backward()
    assert loss.isfinite()
    assert some(student.grad).isfinite().all()
    assert crd.student_memory.isfinite().all()


@pytest.mark.parametrize("temperature", [0.001, 0.07])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype: torch.dtype, temperature: float) -> None:
    student, teacher, index, negatives = draw()
    student, teacher = student.to(dtype).requires_grad_(), teacher.to(dtype)
    crd = make(temperature=temperature).float()
    plain = copy.deepcopy(crd)
    with torch.autocast("cpu", dtype=dtype):
        loss = crd(student, teacher, index, negatives)
    loss.backward()
    assert loss.dtype == torch.float32
    assert some(student.grad).isfinite().all()
    torch.testing.assert_close(loss, plain(student.float(), teacher.float(), index, negatives))
    torch.testing.assert_close(crd.student_memory, plain.student_memory)


def test_feature_maps_are_averaged() -> None:
    student, teacher, index, negatives = draw()
    maps = student[:, :, None, None] + torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    loss = make()(maps, teacher, index, negatives)
    torch.testing.assert_close(loss, make()(student, teacher, index, negatives))


def test_weights_and_start_of_the_memory() -> None:
    crd = CRD(4, 4, 2000, feat_dim=32)
    assert crd.student_memory.square().sum(1).mean().item() == pytest.approx(1, abs=0.02)
    assert crd.student_memory.abs().max() <= math.sqrt(3 / 32)
    assert not torch.equal(crd.student_memory, crd.teacher_memory)
    assert len(list(crd.parameters())) == 4


def test_never_built() -> None:
    with pytest.raises(UserError, match="no embeddings"):
        CRD()(*draw())


def test_index_outside_the_data() -> None:
    student, teacher, index, _ = draw()
    index[0] = N_DATA
    with pytest.raises(UserError, match=f"memory has {N_DATA} rows"):
        make()(student, teacher, index)


@pytest.mark.parametrize(
    "setting", [{"feat_dim": 0}, {"negatives": 0}, {"temperature": 0.0}, {"momentum": 1.5}]
)
def test_bad_settings(setting: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"distiller\.\w+ is .* it must"):
        CRD(**setting)  # type: ignore[arg-type]


# -- Stacks. The first two share a draw.

SEEDS = (3, 3, 5)
NUMBERS: list[dict[str, object]] = [{}, {"temperature": 0.3}, {"momentum": 0.8, "weight": 2.0}]


def members(**changes: object) -> list[CRD]:
    built = [make(**numbers, **changes) for numbers in NUMBERS]
    for seed, (one, member) in enumerate(zip(SEEDS, built, strict=True)):
        build(member, one)
        for number, parameter in enumerate(member.parameters()):
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed + number))
        member.student_memory *= 1.0 + seed / 10
    return built


def batches(step: int, rows: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """A batch for each member; in the second there is a sample twice, but not in all."""
    drawn = [draw(10 * step + member, rows)[:3] for member in range(len(SEEDS))]
    if step == 1:
        drawn[0][2][0] = drawn[0][2][rows - 1]
        drawn[2][2][1] = drawn[2][2][2]
    return drawn


def compare_step(stack: Distiller, alone: list[CRD], step: int, rows: int = BATCH) -> None:
    """Losses, gradients of all weights, and what is kept afterwards."""
    drawn = batches(step, rows)
    features = [torch.stack([batch[side] for batch in drawn]) for side in (0, 1)]
    index = torch.stack([batch[2] for batch in drawn])
    outputs = ({"hidden": side} for side in features)
    losses = stack.distill(*outputs, index, index)
    expected = torch.stack(
        [
            member.distill({"hidden": s}, {"hidden": t}, i, i)
            for member, (s, t, i) in zip(alone, drawn, strict=True)
        ]
    )
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(losses, expected, **close)
    gradients = torch.autograd.grad(losses.sum(), list(stack.parameters()))
    weights = [list(member.parameters()) for member in alone]
    of_members = torch.autograd.grad(expected.sum(), [w for own in weights for w in own])
    for number, gradient in enumerate(gradients):
        together = torch.stack(list(of_members[number :: len(gradients)]))
        torch.testing.assert_close(gradient, together, **close)
    for name in ("student_memory", "teacher_memory", "log_z"):
        together = torch.stack([getattr(member, name) for member in alone])
        torch.testing.assert_close(getattr(stack, name), together, equal_nan=True, **close)
    assert stack.step == alone[0].step


FORMS = {
    "picked": {},
    "counted": {"negatives": 40},
    "listed": {"negatives": 7, "ratio": 0},
    "shared": {"shared_negatives": True},
}


@pytest.mark.parametrize("cells", [30, 2**18])
@pytest.mark.parametrize("form", FORMS)
def test_a_stack_is_its_members(form: str, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of parts of a bank and of several members; the last batch is smaller."""
    settings = dict(FORMS[form])
    monkeypatch.setattr("ntdh_bench.distillers.negatives.CPU_CELLS", cells)
    if "ratio" in settings:
        monkeypatch.setattr("ntdh_bench.distillers.negatives.MAX_BANK_RATIO", settings.pop("ratio"))
    alone = members(**settings)
    stack = CRD.stack(alone).double()
    for step, rows in enumerate((BATCH, BATCH, BATCH - 1)):
        compare_step(stack, alone, step, rows)


def test_a_stack_goes_on_from_its_checkpoint() -> None:
    alone = members()
    stack = CRD.stack(alone).double()
    for step in range(2):
        compare_step(stack, alone, step)
    resumed = CRD.stack(members()).double()
    resumed.load_state_dict(copy.deepcopy(stack.state_dict()))
    for step in (2, 3):
        compare_step(resumed, alone, step)


def test_evaluation_changes_nothing_in_a_stack() -> None:
    alone = members()
    stack = CRD.stack(alone).double()
    for module in (stack, *alone):
        module.eval()
    before = copy.deepcopy(stack.state_dict())
    for step in range(2):
        compare_step(stack, alone, step)
    for name, value in stack.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_a_member_that_is_not_finite_fails_alone() -> None:
    stack = CRD.stack(members()).double()
    drawn = batches(0, BATCH)
    student, teacher, index = (torch.stack(list(values)) for values in zip(*drawn, strict=True))
    student[1, 2] = math.nan
    expected = [member(*batch) for member, batch in zip(members(), drawn, strict=True)]
    for _ in range(2):
        losses = stack(student, teacher, index)
        assert losses.isfinite().tolist() == [True, False, True]
        if expected:
            torch.testing.assert_close(losses[::2], torch.stack(expected[::2]))
        expected = []


def test_who_may_share_a_stack() -> None:
    first, other, _ = members()
    assert first.stack_key == other.stack_key
    for changes in ({"negatives": 8}, {"shared_negatives": True}, {"feat_dim": 4}):
        assert make(**changes).stack_key != first.stack_key
    other(*draw())
    assert first.stack_key != other.stack_key  # no common step


WORKER = """
from ntdh_bench.distillers import CRD, Distiller
from ntdh_bench.distillers.ranks import gather_rows
state, batches = torch.load(folder / "data.pt")
crd = CRD(5, 3, 30, 6, 7).double()
crd.load_state_dict(state)
ddp = torch.nn.parallel.DistributedDataParallel(crd)
gradients = []
for batch in batches:
    ddp.zero_grad()
    ddp(*(x[2 * rank : 2 * rank + 2] for x in batch)).backward()
    gradients.append([p.grad.clone() for p in crd.parameters()])
ddp.zero_grad()
ddp(*(x[2 * rank : 2 * rank + 2] for x in batches[0][:3])).backward()
rows = gather_rows(torch.arange(3 - 2 * rank) + 10 * rank)
result = gradients, crd.state_dict(), rows
"""


def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    """Gradients, normalisers and banks; the third step draws its own negatives on each rank."""
    crd = make()
    batches = [draw(0), draw(1)]
    batches[1][2][3] = batches[1][2][0]  # one sample on both ranks
    torch.save((crd.state_dict(), batches), tmp_path / "data.pt")
    expected = []
    for batch in batches:
        crd.zero_grad()
        crd(*batch).backward()
        expected.append([p.grad.clone() for p in crd.parameters() if p.grad is not None])
    crd(*batches[0][:3])
    states = []
    for gradients, state, rows in run_two_processes(WORKER, tmp_path):
        torch.testing.assert_close(gradients, expected)
        assert rows.tolist() == [0, 1, 2, 10]
        states.append(state)
        for name, value in crd.state_dict().items():
            torch.testing.assert_close(state[name], value)
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])


def test_alone_there_is_nothing_to_gather() -> None:
    x = torch.randn(3, 2)
    assert gather_rows(x) is x
    assert rank() == 0
