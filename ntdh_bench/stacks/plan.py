"""Which runs of a sweep are trained as one stack, and why the others are not. Imports no torch.

Runs share a stack if their configs are equal but for the seed, the distiller, the weights of the
loss, the mask and a given teacher, and if nothing in them needs a training of its own
(:func:`.requirements.why_alone`). Where there is no GPU, those are left alone whose arithmetic
fills a core by itself: they would gain nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

from ntdh_bench.errors import UserError
from ntdh_bench.experiments import Run
from ntdh_bench.stacks.costs import fills_a_core, member_bytes
from ntdh_bench.stacks.requirements import stack_key, why_alone

#: Stack what gains from it; nothing; or all that can be, at most so many at once.
Stacking: TypeAlias = Literal["auto", "off"] | int

_MOST = 512  # members, where nothing else limits them


class Machine(NamedTuple):
    """What stacks are trained on.

    Attributes:
        jobs: workers at once.
        gpu: whether they have GPUs.
        memory: bytes that one stack may take.
    """

    jobs: int
    gpu: bool
    memory: float


class Stack(NamedTuple):
    """Runs that are trained as one.

    Attributes:
        runs: in the order of its members.
        why: it has no more of them, in a few words; empty if no others go with them.
    """

    runs: tuple[Run, ...]
    why: str = ""


class Plan(NamedTuple):
    """How runs are trained.

    Attributes:
        stacks: of two members or more.
        alone: the other runs, each with the reason in a few words.
    """

    stacks: list[Stack]
    alone: list[tuple[Run, str]]

    @property
    def jobs(self) -> list[tuple[Run, ...]]:
        """What workers do, in order: stacks first, as they take longest."""
        return [*(stack.runs for stack in self.stacks), *((run,) for run, _ in self.alone)]

    @property
    def placed(self) -> list[tuple[Run, bool]]:
        """All runs, and whether in a stack."""
        stacked = [(run, True) for stack in self.stacks for run in stack.runs]
        return [*stacked, *((run, False) for run, _ in self.alone)]


def make_plan(
    runs: Sequence[Run],
    stacking: Stacking,
    machine: Machine,
    unfinished: Iterable[Sequence[str]] = (),
) -> Plan:
    """Return how runs are trained; the same for the same runs and machine.

    Args:
        runs: those to do, of different hashes.
        stacking: whether, and how many at most.
        machine: where.
        unfinished: hashes of the members of stacks that were interrupted: where all of them are to
            do, they stay together, so that they go on from where they were.
    """
    if stacking == "off":
        return Plan([], [(run, "--stack off") for run in runs])
    reasons = {run.hash: why_alone(run.config) for run in runs}
    able = {run.hash: run for run in runs if reasons[run.hash] is None}
    parts = [Stack(tuple(runs)) for runs in _going_on(able, stacking, unfinished)]
    for part in parts:
        for run in part.runs:
            del able[run.hash]
    for run in list(able.values()) if stacking == "auto" else ():
        if not _on_gpu(run, machine) and fills_a_core(run.config):
            reasons[run.hash] = "arithmetic fills the core"
            del able[run.hash]
    parts += _divide(list(able.values()), stacking, machine)
    stacks = [part for part in parts if len(part.runs) > 1]
    for part in parts:
        if len(part.runs) == 1:
            reasons[part.runs[0].hash] = part.why or "no other run goes with it"
    stacked = {run.hash for stack in stacks for run in stack.runs}
    return Plan(stacks, [(run, str(reasons[run.hash])) for run in runs if run.hash not in stacked])


def check_stackable(runs: Iterable[Run], stacking: Stacking) -> None:
    """Refuse to be told how many runs to stack where none can be.

    Raises:
        UserError: with the reasons.
    """
    reasons = {why_alone(run.config) for run in runs}
    if isinstance(stacking, int) and reasons and None not in reasons:
        told = "; ".join(sorted(map(str, reasons)))
        raise UserError(f"--stack {stacking}: none of these runs can be in a stack: {told}")


def _on_gpu(run: Run, machine: Machine) -> bool:
    trainer = run.config.get("trainer")
    chosen = trainer.get("accelerator") if isinstance(trainer, Mapping) else None
    return machine.gpu and chosen != "cpu"


def _going_on(
    able: Mapping[str, Run], stacking: Stacking, unfinished: Iterable[Sequence[str]]
) -> Iterator[list[Run]]:
    """Yield the interrupted stacks whose members are all to do and still go together."""
    placed: set[str] = set()
    for hashes in sorted(unfinished, key=lambda hashes: (-len(hashes), *hashes)):
        members = [able[name] for name in dict.fromkeys(hashes) if name in able]
        whole = len(members) == len(hashes) and 1 < len(hashes) <= _limit(stacking)
        kinds = {stack_key(run.config) for run in members}
        if whole and len(kinds) == 1 and placed.isdisjoint(hashes):
            placed.update(hashes)
            yield members


def _divide(runs: Sequence[Run], stacking: Stacking, machine: Machine) -> Iterator[Stack]:
    """Yield the runs in parts that go together, each job its share of them; some of one run."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(stack_key(run.config), []).append(run)
    for group in groups.values():
        # Runs of one seed stay together: they share batches, and most of them a teacher.
        group.sort(key=lambda run: run.seed)
        jobs = math.ceil(machine.jobs * len(group) / len(runs))
        number, why = _number_of_parts(group, jobs, stacking, machine)
        why = f"{len(group)} go together, split for {why}" if number > 1 else ""
        for part in _parts(group, number):
            yield Stack(part, why)


def _number_of_parts(
    group: Sequence[Run], jobs: int, stacking: Stacking, machine: Machine
) -> tuple[int, str]:
    """Return in how many equal parts a group goes, and what for."""
    sizes = {run.hash: member_bytes(run.config) for run in group}
    if max(sizes.values()) > machine.memory:
        return len(group), "memory"
    for_jobs = min(jobs, len(group))
    for_limit = math.ceil(len(group) / _limit(stacking))
    number = max(for_jobs, for_limit)
    why = f"{machine.jobs} jobs" if number == for_jobs else f"{_limit(stacking)} at once"
    while any(sum(sizes[r.hash] for r in p) > machine.memory for p in _parts(group, number)):
        number, why = number + 1, "memory"
    return number, why


def _parts(runs: Sequence[Run], number: int) -> list[tuple[Run, ...]]:
    """Return so many parts, whose sizes differ by one at most."""
    ends = [len(runs) * part // number for part in range(number + 1)]
    return [tuple(runs[start:end]) for start, end in pairwise(ends)]


def _limit(stacking: Stacking) -> int:
    return stacking if isinstance(stacking, int) else _MOST
