"""Methods against KD, RKD and CRD against the usual implementations, stacks against loops.

Ratios are of one run.

On a machine with other work, threads that wait for each other make the ratio of two meaningless.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ntdh_bench.distillers import (
    CC,
    CRD,
    DIST,
    DKD,
    KD,
    MLKD,
    NKD,
    PKT,
    RKD,
    SKD,
    SP,
    WTTM,
    Distiller,
    SimKD,
)
from ntdh_bench.distillers.base import OneByOne
from ntdh_bench.distillers.functional import rkd
from ntdh_bench.distillers.mutual import mutual_kl, selected_nckl
from ntdh_bench.distillers.routing import routed_kl
from ntdh_bench.layers import AVERAGED_LOGITS, map_of, share_of
from tests.helpers import methods

pytestmark = pytest.mark.benchmark
BATCH, N_DATA, NEGATIVES, WIDTH, MEMBERS = 64, 60_000, 16_384, 128, 50


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def compare(
    name: str, ours: Callable[[], object], usual: Callable[[], object], rounds: int
) -> None:
    """Time both in turns, so that a busy machine slows both; print the ratios of the best times."""
    wall: dict[str, float] = {}
    cpu: dict[str, float] = {}
    for _ in range(rounds):
        for key, run in (("ours", ours), ("ours", ours), ("ours", ours), ("usual", usual)):
            start, used = time.perf_counter(), time.process_time()
            run()
            wall[key] = min(wall.get(key, math.inf), time.perf_counter() - start)
            cpu[key] = min(cpu.get(key, math.inf), time.process_time() - used)
    print(
        f"\n{name}: {wall['usual'] / wall['ours']:.1f}x "
        f"({wall['usual'] * 1e3:.0f} ms / {wall['ours'] * 1e3:.0f} ms, best of {rounds}), "
        f"{cpu['usual'] / cpu['ours']:.1f}x in processor time"
    )


def usual_rkd(student: Tensor, teacher: Tensor) -> Tensor:
    """Angles from B x B x D differences."""

    def distances(x: Tensor) -> Tensor:
        squares = x.square().sum(dim=1)
        between = (squares[:, None] + squares - 2 * x @ x.T).clamp(min=1e-12).sqrt()
        between = between * (1 - torch.eye(len(x)))
        return between / between[between > 0].mean()

    def angles(x: Tensor) -> Tensor:
        unit = F.normalize(x[None] - x[:, None], dim=2)
        return torch.bmm(unit, unit.transpose(1, 2))

    with torch.no_grad():
        wanted = distances(teacher), angles(teacher)
    distance = F.smooth_l1_loss(distances(student), wanted[0])
    return 25 * distance + 50 * F.smooth_l1_loss(angles(student), wanted[1])


@pytest.mark.parametrize("rows", [BATCH, 256])
def test_rkd_speed(threads: int, rows: int) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(rows, WIDTH, requires_grad=True), torch.randn(rows, WIDTH)

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        value = loss(student, teacher)
        return value.detach(), torch.autograd.grad(value, student)[0]

    for ours, usual in zip(step(rkd), step(usual_rkd), strict=True):
        torch.testing.assert_close(ours, usual, rtol=1e-4, atol=1e-6)
    compare(
        f"RKD with angle, B = {rows}, {threads} thread(s)",
        lambda: step(rkd),
        lambda: step(usual_rkd),
        7,
    )


STACKED: dict[str, Callable[[int], Distiller]] = {
    "KD": lambda k: KD(1.0 + k),
    "DKD": lambda k: DKD(temperature=1.0 + k),
    "NKD": lambda k: NKD(1.0 + k),
    "DIST": lambda k: DIST(1.0 + k),
    "WTTM": lambda k: WTTM(1.0 + k),
    "MLKD": lambda k: MLKD(weight=1.0 + k),
    "SKD": lambda k: SKD(1.0 + k),
    "CC": lambda k: CC(weight=1.0 + k, layer="hidden"),
    "SP": lambda k: SP(1.0 + k, layer="hidden"),
    "PKT": lambda k: PKT(1.0 + k, layer="hidden"),
    "RKD": lambda k: RKD(1.0 + k, layer="hidden"),
}


@pytest.mark.parametrize("names", [[name] for name in STACKED] + [list(STACKED)], ids="+".join)
def test_stack_of_distillers(names: list[str], one_thread: None) -> None:
    """Loss and gradient of 50 members at once against one after the other."""
    torch.manual_seed(0)
    stacks = [[STACKED[name](k) for k in range(MEMBERS)] for name in names]
    one_by_one = [OneByOne(members) for members in stacks]
    batched = [type(members[0]).stack(members) for members in stacks]

    def outputs() -> dict[str, Tensor]:
        shapes = {"logits": (MEMBERS, BATCH, 10), "hidden": (MEMBERS, BATCH, WIDTH)}
        return {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}

    student, teacher = outputs(), {name: x.detach() for name, x in outputs().items()}
    target = torch.randint(10, (MEMBERS, BATCH))

    def step(distillers: Sequence[Distiller]) -> list[Tensor]:
        losses = [one.distill(student, teacher, target, target) for one in distillers]
        total = torch.stack(losses).sum()
        leaves = list(student.values())
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        return [*losses, *(g for g in gradients if g is not None)]

    for ours, usual in zip(step(batched), step(one_by_one), strict=True):
        torch.testing.assert_close(ours, usual)
    compare(
        f"{'+'.join(names)}, {MEMBERS} members, B = {BATCH}",
        lambda: step(batched),
        lambda: step(one_by_one),
        5,
    )


#: Without CRD, whose step is measured below.
BESIDE_KD: dict[str, Callable[[], Distiller]] = {
    **{name: make for name, make in methods("hidden2", maps=True).items() if name != "CRD"},
    "SimKD": lambda: SimKD(head="hidden2"),  # its projector is part of the student
}
DENSE_ROWS, DENSE_SAMPLES = 100_000, 8
#: Of a dense batch, about as many positions.
MAP = (64, 112, 112)


def one_step(distiller: Distiller, rows: int) -> Callable[[], object]:
    """Loss and gradients on a batch of 10 classes and 256 features, or on rows of a dense one."""
    torch.manual_seed(0)
    samples = DENSE_SAMPLES if rows == DENSE_ROWS else rows
    maps = distiller.by_position and rows == DENSE_ROWS
    target, index = torch.randint(10, (rows,)), torch.arange(samples)

    def outputs(layer: str) -> dict[str, Tensor]:
        shapes = {"logits": (rows, 10), **({} if layer == "logits" else {layer: (samples, 256)})}
        if rows == DENSE_ROWS:
            shapes[AVERAGED_LOGITS] = (samples, 10)
        if maps:
            shapes |= {layer: (samples, MAP[0]), map_of(layer): (samples, *MAP)}
        return {name: torch.randn(shape) for name, shape in shapes.items()}

    (ours,), (theirs,) = distiller.student_layers, distiller.teacher_layers
    student, teacher = outputs(ours), outputs(theirs)
    student = {name: value.requires_grad_() for name, value in student.items()}
    widths = ({name: value.shape[1] for name, value in x.items()} for x in (student, teacher))
    distiller.build(*widths, samples, 0)
    leaves = [*student.values(), *distiller.parameters()]
    if maps:
        student[share_of(ours)] = torch.rand(samples, *MAP[1:])

    def step() -> object:
        loss = distiller.distill(student, teacher, target, index)
        return torch.autograd.grad(loss, leaves, allow_unused=True)

    return step


def beside_kd(rows: int) -> dict[str, Callable[[], Distiller]]:
    """Those that are defined there."""
    unfit = () if rows == DENSE_ROWS else ("AT", "ReviewKD")
    return {name: make for name, make in BESIDE_KD.items() if name not in unfit}


def best(run: Callable[[], object], seconds: float = 0.2) -> float:
    """Shortest time of a run, of those that fit into some seconds."""
    found, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        found = min(found, time.perf_counter() - start)
    return found


@pytest.mark.parametrize("rows", [128, DENSE_ROWS])
def test_every_method_beside_kd(rows: int, one_thread: None) -> None:
    memory = dict(line.split() for line in run_lines(BESIDE_KD_MEMORY.format(rows=rows)))
    print(f"\n{rows} rows: step, beside KD's; extra memory")
    for name, make in beside_kd(rows).items():
        kd, step = one_step(KD(), rows), one_step(make(), rows)
        step(), kd()
        usual, ours = map(min, zip(*((best(kd), best(step)) for _ in range(3)), strict=True))
        print(
            f"{name:10} {ours * 1e3:8.2f} ms {ours / usual:6.1f} x {float(memory[name]):7.1f} MiB"
        )


def one_step_together(name: str, rows: int) -> Callable[[], object]:
    """Loss and gradients of a method that trains the teacher as well; of four teachers' gate."""
    torch.manual_seed(0)
    student, teacher = (torch.randn(rows, 10, requires_grad=True) for _ in range(2))
    target = torch.randint(10, (rows,))
    teachers, gate = torch.randn(4, rows, 10), torch.randn(rows, 4, requires_grad=True)
    losses: dict[str, tuple[Callable[[], Tensor], list[Tensor]]] = {
        "mutual_kl": (lambda: mutual_kl(student, teacher), [student, teacher]),
        "C2KD's": (lambda: selected_nckl(student, teacher, target), [student, teacher]),
        "routed_kl": (lambda: routed_kl(student, teachers, gate.log_softmax(1)), [student, gate]),
    }
    loss, leaves = losses[name]
    return lambda: torch.autograd.grad(loss(), leaves)


TOGETHER = ("mutual_kl", "C2KD's", "routed_kl")


@pytest.mark.parametrize("rows", [128, DENSE_ROWS])
def test_methods_that_train_the_teacher_beside_kd(rows: int, one_thread: None) -> None:
    memory = run_lines(TOGETHER_MEMORY.format(rows=rows))
    print(f"\n{rows} rows: step, beside KD's; extra memory")
    for name, extra in zip(TOGETHER, memory, strict=True):
        kd, step = one_step(KD(), rows), one_step_together(name, rows)
        step(), kd()
        usual, ours = map(min, zip(*((best(kd), best(step)) for _ in range(3)), strict=True))
        print(f"{name:10} {ours * 1e3:8.2f} ms {ours / usual:6.1f} x {float(extra):7.1f} MiB")


TOGETHER_MEMORY = """
from tests.benchmarks.test_distillers import TOGETHER, one_step_together
for name in TOGETHER:
    step = one_step_together(name, {rows})
    step()
    extra(step)
"""


# The peak is reset before the step (ru_maxrss cannot be, and survives the start of a process).
PEAK = """
import re, torch
torch.set_num_threads(2)
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])
def extra(run):
    open("/proc/self/clear_refs", "w").write("5")
    before = resident()
    run()
    print((peak() - before) / 1024)
"""


def run_lines(script: str) -> list[str]:
    """Run a script that may call ``extra``; returns the lines that it prints."""
    # What is freed goes back to the system, so that the next peak counts it again.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | malloc
    command = [sys.executable, "-c", PEAK + script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()


def extra_memory(script: str) -> float:
    """MiB that the last line of a script adds to what was resident before it."""
    (line,) = run_lines(script)
    return float(line)


BESIDE_KD_MEMORY = """
from tests.benchmarks.test_distillers import beside_kd, one_step
for name, make in beside_kd({rows}).items():
    step = one_step(make(), {rows})
    step()
    print(name, end=" ")
    extra(step)
"""


RKD_MEMORY = """
from ntdh_bench.distillers.functional import rkd
def step(size):
    student = torch.randn(size, 128, requires_grad=True)
    rkd(student, torch.randn(size, 128)).backward()
step(8)  # libraries loaded, threads started
extra(lambda: step(1024))
"""


def test_rkd_memory() -> None:
    extra = extra_memory(RKD_MEMORY)
    print(f"\nRKD with angle, B = 1024: {extra:.0f} MiB of extra memory")
    assert extra < 256


def usual_crd(
    crd: CRD, memories: list[Tensor], student: Tensor, teacher: Tensor, contrast: Tensor
) -> Tensor:
    """Contrasts gathered from the banks, scores by bmm, banks updated by index_copy."""
    assert crd.student_embedding is not None
    assert crd.teacher_embedding is not None
    embeddings = [
        F.normalize(crd.student_embedding(student)),
        F.normalize(crd.teacher_embedding(teacher)),
    ]
    noise = (contrast.shape[1] - 1) / N_DATA
    total = torch.zeros(())
    for embedding, memory, log_z in zip(embeddings, memories[::-1], crd.log_z, strict=True):
        rows = memory.index_select(0, contrast.flatten()).view(*contrast.shape, -1)
        scores = torch.bmm(rows, embedding[:, :, None]).squeeze(2)
        h = torch.exp(scores / crd.temperature) / log_z.exp()
        positive = (h[:, 0] / (h[:, 0] + noise + 1e-7)).log().sum()
        total = total - (positive + (noise / (h[:, 1:] + noise + 1e-7)).log().sum())
    index = contrast[:, 0]
    with torch.no_grad():
        for embedding, memory in zip(embeddings, memories, strict=True):
            mixed = crd.momentum * memory[index] + (1 - crd.momentum) * embedding
            memory.index_copy_(0, index, F.normalize(mixed))
    return total / len(student)


def test_crd_step(threads: int) -> None:
    torch.manual_seed(0)
    start = time.perf_counter()
    crd = CRD(WIDTH, WIDTH, N_DATA, WIDTH, NEGATIVES)
    print(f"\nCRD: constructed in {(time.perf_counter() - start) * 1e3:.0f} ms")
    student, teacher = torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)
    index = torch.randperm(N_DATA)[:BATCH]
    negatives = torch.randint(N_DATA, (BATCH, NEGATIVES))
    contrast = torch.cat([index[:, None], negatives], dim=1)
    crd(student, teacher, index, negatives)  # sets the normalisers
    memories = [crd.student_memory.clone(), crd.teacher_memory.clone()]
    weights = list(crd.parameters())

    def ours(negatives: Tensor | None = negatives) -> list[Tensor]:
        loss = crd(student, teacher, index, negatives)
        return [loss.detach(), *torch.autograd.grad(loss, weights)]

    def usual() -> list[Tensor]:
        loss = usual_crd(crd, memories, student, teacher, contrast)
        return [loss.detach(), *torch.autograd.grad(loss, weights)]

    for actual, expected in zip(ours(), usual(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close([crd.student_memory, crd.teacher_memory], memories)
    compare(f"CRD step, {threads} thread(s)", ours, usual, 4)
    compare(f"the same, drawing the negatives, {threads} thread(s)", lambda: ours(None), usual, 4)


CRD_MEMORY = """
from ntdh_bench.distillers import CRD
def step(size, crd):
    crd(torch.randn(size, 128), torch.randn(size, 128), torch.arange(size)).backward()
step(1, CRD(128, 128, 60000, 128, 8))
crd = CRD(128, 128, 60000)
extra(lambda: step(64, crd))
"""


def test_crd_memory() -> None:
    print(f"\nCRD step: {extra_memory(CRD_MEMORY):.0f} MiB of extra memory")
