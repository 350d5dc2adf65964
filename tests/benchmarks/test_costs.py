"""The cost model against docs/costs.md, the shipped configs, and this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ntdh_bench.composition import find_config, read_config
from tests.benchmarks.costs import (
    DATA_SETS,
    GPU,
    DataSet,
    Machine,
    cost,
    empty,
    hours,
    networks_of,
    operations,
    step_of,
    steps_of,
)
from tests.helpers import own_process_group

MEASURED = ("MNIST / MNIST-M", "RAVDESS", "NYU Depth V2, pixels")


def test_the_page_has_what_the_model_says() -> None:
    page = Path("docs/costs.md").read_text()
    steps = {name: steps_of(data) for name, data in DATA_SETS.items()}
    for table in (operations(steps), hours(steps)):
        assert table in page, "python -m tests.benchmarks.costs prints the tables of docs/costs.md"


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name != "Synthetic"])
def test_sizes_are_those_of_the_config(name: str) -> None:
    data = DATA_SETS[name]
    config = read_config(find_config(data.config))
    assert data.epochs == config["trainer"]["max_epochs"]
    assert data.batch == config["data"]["init_args"]["batch_size"]


def test_a_step_worked_out_by_hand() -> None:
    """Two layers of 10 x 20 and 20 x 5; of the first one no gradient of the inputs is needed."""
    network = nn.Sequential(nn.Linear(10, 20, bias=False), nn.ReLU(), nn.Linear(20, 5, bias=False))
    step = step_of(network.to("meta"), empty((10,), 4))
    assert step.forward == 2 * 4 * (10 * 20 + 20 * 5)
    assert step.flops == step.forward + 2 * 4 * (10 * 20 + 2 * 20 * 5)
    assert step.kept == 4 * 4 * (10 + 20)  # inputs, and the activations that both layers share
    assert step.parameters == 300


def test_more_devices_send_more_and_take_less() -> None:
    data = DATA_SETS["SemanticKITTI"]
    steps = steps_of(data)
    one, eight = (cost(data, steps, devices, GPU) for devices in (1, 8))
    assert one.sent == 0
    assert eight.hours == pytest.approx(one.hours / 8, rel=0.01)
    slow = GPU._replace(link=1e8)
    assert cost(data, steps, 8, slow).hours > 2 * eight.hours
    assert cost(data, steps, 1, GPU._replace(disk=1e6)).hours > 2 * one.hours


def smaller(data: DataSet) -> DataSet:
    return data._replace(batch=min(data.batch, 8))


def shortest(run: Callable[[], object], repeats: int = 5) -> float:
    """Return the least seconds of this process: others may be busy on the machine."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def this_core() -> Machine:
    """Measure a core: a product of matrices, and copying an array."""
    a, b = torch.randn(2, 768, 768).unbind()
    copied, source = torch.empty(2, 2**24).unbind()
    return Machine(
        flops=2 * 768**3 / shortest(lambda: a @ b),
        memory=2 * source.nbytes / shortest(lambda: copied.copy_(source)),
        step=0.0,
        link=1.0,
        disk=1.0,
    )


@pytest.mark.benchmark
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", MEASURED)
def test_time_and_memory_of_a_step_here(name: str) -> None:
    """What a core reaches of its best, and what forward keeps, counted by the allocator."""
    data = smaller(DATA_SETS[name])
    core = this_core()
    counted = steps_of(data).student
    _, student, _ = networks_of(data.config)
    inputs = empty(data.student, data.batch, "cpu")

    def step() -> None:
        student(inputs).sum().backward()

    step()
    seconds = shortest(step)
    with torch.profiler.profile(profile_memory=True) as profile:
        logits = student(inputs)
    held = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    logits.sum().backward()
    # Inputs were there before, and logits are kept for nothing.
    kept = counted.kept - inputs.nbytes + logits.nbytes
    expected = counted.flops / core.flops
    print(
        f"\n{name}, batch {data.batch}: {counted.flops / 1e9:.3g} GFLOP, {seconds * 1e3:.3g} ms a "
        f"step, {expected / seconds:.0%} of this core's {core.flops / 1e9:.0f} GFLOP/s; kept "
        f"{kept / 2**20:.2f} MiB, measured {held / 2**20:.2f} MiB"
    )
    assert 0.02 < expected / seconds < 1.5
    assert held == pytest.approx(kept, rel=0.25)


@pytest.mark.benchmark
def test_bytes_that_processes_send(tmp_path: Path) -> None:
    """DDP hands over every gradient once: four bytes a parameter."""
    sent: list[int] = []

    def count(bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        sent.append(bucket.buffer().nbytes)
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    data = smaller(DATA_SETS["NYU Depth V2, pixels"])
    _, student, _ = networks_of(data.config)
    with own_process_group():
        dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
        divided = DistributedDataParallel(student)
        divided.register_comm_hook(None, lambda state, bucket: count(bucket))
        divided(empty(data.student, data.batch, "cpu")).sum().backward()
    expected = 4 * steps_of(data).student.parameters
    print(f"\n{sum(sent)} bytes a step, {expected} expected")
    assert sum(sent) == expected
