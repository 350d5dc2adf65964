"""What an engine does: it gives jobs to workers that pay for their imports once."""

from __future__ import annotations

import json
import os
import re
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ntdh_bench.cache import digest
from ntdh_bench.experiments import Run

STARTS = 3  # attempts to start a worker before it is given up
#: What runs configs: ``(configs, folder) -> records or failures``, as ``module:function``.
FUNCTION = "ntdh_bench.sweep.worker:run_configs"
_DEVICES = Path("/dev")
_CONTAINER = Path("/sys/fs/cgroup/memory.max")
# A run has one device and no peers, whatever job the sweep is part of. With the variables of SLURM,
# LSF, torchrun or Kubeflow in a worker's environment, Lightning would look for the other processes.
_CLUSTER = re.compile(
    r"(SLURM|LSB|JSM|TORCHELASTIC|GROUP|ROLE)_.*|KUBERNETES_PORT|"
    r"MASTER_(ADDR|PORT)|(LOCAL_|NODE_)?RANK|(LOCAL_)?WORLD_SIZE"
)
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip


class Job(NamedTuple):
    """Runs that a worker does together: one, or the members of a stack in their order."""

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """16 hex digits: a run's hash, or a digest of the hashes of several."""
        hashes = [run.hash for run in self.runs]
        return hashes[0] if len(hashes) == 1 else digest(hashes)


class Result(NamedTuple):
    """What came of a run.

    Attributes:
        record: of the run; None if it failed.
        failure: the reason, one line.
        no_data: whether it failed because of its data.
    """

    record: dict[str, Any] | None = None
    failure: str | None = None
    no_data: bool = False


class Finished(NamedTuple):
    """What came of a job.

    Attributes:
        job: its name.
        results: of its runs, in order; None if it failed as a whole.
        failure: the reason, one line; None if it did not fail as a whole.
        disk_full: whether something failed because a disk is full, so that others would, too.
        alone: whether it failed because its runs cannot be trained as one.
        no_data: whether it failed because of its data.
    """

    job: str
    results: Sequence[Result] | None = None
    failure: str | None = None
    disk_full: bool = False
    alone: bool = False
    no_data: bool = False

    @classmethod
    def of_answer(cls, job: str, answer: str) -> Finished:
        """Return what a worker's answer says (:func:`.execution.execute`)."""
        found = json.loads(answer)
        if (results := found.pop("results", None)) is not None:
            found["results"] = [Result(**result) for result in results]
        return cls(job, **found)

    @property
    def reason(self) -> str:
        """What failed first, one line."""
        failures = [result.failure for result in self.results or () if result.failure]
        return self.failure or next(iter(failures), "")


class Engine(ABC):
    """Workers, each with at most one job.

    A worker that dies while it starts (which runs of other programs can cause, by taking the
    memory) is started again, and given up at the third time; the others go on.

    Attributes:
        jobs: number of workers.
        threads: per worker.
        n_gpus: that they share; 0: they compute on cores.
    """

    jobs: int
    threads: int
    n_gpus: int

    @property
    @abstractmethod
    def idle(self) -> int:
        """Number of workers that have started and wait for a job."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Give a job to an idle worker."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Finished]:
        """Return the jobs that finished or failed, as soon as there is news.

        Args:
            seconds: return an empty list after this long.

        Raises:
            UserError: no worker is left that can start.
        """

    @abstractmethod
    def kill(self, job: str) -> None:
        """End a job at once; nothing more is heard of it, and its worker is replaced."""

    @abstractmethod
    def close(self) -> None:
        """End all workers, and what they run."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # macOS and Windows have no affinity
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA names them; found without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        # A container may see /dev/nvidia3 alone, which CUDA calls 0.
        devices = (re.fullmatch(r"nvidia\d+", path.name) for path in _DEVICES.iterdir())
        return [str(number) for number in range(sum(device is not None for device in devices))]
    return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]


def stack_memory(jobs: int, n_gpus: float, gpus_per_run: float) -> float:
    """Return the bytes that one stack may take: most of its share of a GPU, half of that of memory.

    It goes by what is there, not by what is free, so that the same sweep has the same stacks again.
    """
    if n_gpus:
        return _gpu_memory() * 0.8 * min(gpus_per_run, 1.0)
    return _memory() / 2 / jobs


def _gpu_memory() -> float:
    """Return the bytes of the smallest GPU here; 16 GiB where the driver's tool does not tell."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        return min(map(float, done.stdout.split())) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return 2.0**34


def _memory() -> float:
    """Return the bytes of memory that this process may use: the machine's, or its container's."""
    there = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # no cgroup, or one without a limit ("max")
        return min(there, float(int(_CONTAINER.read_text())))
    return there


def default_jobs(n_gpus: float, gpus_per_run: float, n_cores: int) -> int:
    """Return how many runs fit on the GPUs, or where there are none, on the cores."""
    return max(1, int(n_gpus / gpus_per_run) if n_gpus else n_cores)


def thread_count(jobs: int, n_cores: int) -> int:
    """Return the threads of a worker: ``$OMP_NUM_THREADS``, or the cores shared out evenly."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else max(1, n_cores // jobs)


def leave_cluster() -> None:
    """Forget the cluster's job that this process is part of."""
    for name in filter(_CLUSTER.fullmatch, list(os.environ)):
        del os.environ[name]


def thread_environment(threads: int) -> dict[str, str]:
    """Return the variables that limit the threads of a worker; they count before its imports."""
    return dict.fromkeys(_THREAD_VARIABLES, str(threads))
