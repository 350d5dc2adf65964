"""What ``ntdh-bench sweep --dry-run`` prints: the runs, the stacks that they are in, the time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ntdh_bench.experiments import Run
from ntdh_bench.stacks.plan import Plan, Stack
from ntdh_bench.sweep.estimate import Expected
from ntdh_bench.sweep.progress import duration


def print_plan(runs: Sequence[Run], plan: Plan, expected: Expected, jobs: int) -> None:
    """Print a line for every run, one for every stack and for why runs are alone, and the time.

    Args:
        runs: those that are selected.
        plan: of those of them that are to do.
        expected: what these take one after the other.
        jobs: workers at once.
    """
    for line in _padded(_table(runs, plan)):
        print(line)
    print()
    for line in _lines(plan):
        print(line)
    todo = len(_places(plan))
    print(f"{len(runs)} runs, {todo} to do{_known(plan, expected, jobs)}{_unknown(expected)}")


def plan_summary(plan: Plan) -> str:
    """Return how many stacks there are, for the end of a line; nothing if there are none."""
    if not plan.stacks:
        return ""
    sizes = sorted({len(stack.runs) for stack in plan.stacks})
    span = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    alone = f", {len(plan.alone)} alone" if plan.alone else ""
    return f"; {len(plan.stacks)} stack(s) of {span} runs{alone}"


def _lines(plan: Plan) -> Iterator[str]:
    """Yield a line for every stack, and one for every reason why runs are alone."""
    for number, stack in enumerate(plan.stacks, start=1):
        yield f"stack {number}: {_members(stack)}"
    for reason, count in Counter(reason for _, reason in plan.alone).items():
        yield f"alone: {count} run{'s' * (count > 1)}: {reason}"


def _members(stack: Stack) -> str:
    seeds = sorted({run.seed for run in stack.runs})
    span = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    why = f" ({stack.why})" if stack.why else ""
    return f"{len(stack.runs)} runs, seed{'s' * (len(seeds) > 1)} {span}{why}"


def _places(plan: Plan) -> dict[str, str]:
    """Return, of the runs to do, the number of the stack, or ``alone``."""
    places = {run.hash: "alone" for run, _ in plan.alone}
    for number, stack in enumerate(plan.stacks, start=1):
        places |= dict.fromkeys((run.hash for run in stack.runs), str(number))
    return places


def _table(runs: Sequence[Run], plan: Plan) -> Iterator[list[str]]:
    axes = list(dict.fromkeys(axis for run in runs for axis in run.labels))
    yield [*axes, "protocol", "seed", "run", "stack", "state"]
    places = _places(plan)
    for run in runs:
        cell = [run.labels.get(axis, "") for axis in axes]
        place = places.get(run.hash, "")
        state = "to do" if place else "done"
        yield [*cell, run.protocol, str(run.seed), run.hash, place, state]


def _padded(table: Iterator[list[str]]) -> Iterator[str]:
    lines = list(table)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        yield "  ".join(padded).rstrip()


def _known(plan: Plan, expected: Expected, jobs: int) -> str:
    seconds, runs, unknown = expected
    if not runs:
        return ""
    part = f" for {runs} of them" if unknown else ""
    return (
        f": about {duration(seconds / min(jobs, len(plan.jobs)))}{part}, at "
        f"{duration(seconds / runs)} a run and {jobs} at once"
    )


def _unknown(expected: Expected) -> str:
    """Say of how many runs nothing tells, which is all of them at first."""
    if not expected.unknown:
        return ""
    count = f"{expected.unknown} of {expected.runs + expected.unknown} runs"
    return f"; no basis for {count}: none like them is finished"
