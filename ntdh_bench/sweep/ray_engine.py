"""The Ray engine: actors on a cluster or on a Ray of this machine's own (extra ``ray``).

Nothing is shared but the network: workers return records and logs, and the driver writes them.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from ntdh_bench.errors import UserError
from ntdh_bench.notices import notice
from ntdh_bench.sweep.engine import (
    FUNCTION,
    STARTS,
    Engine,
    Finished,
    Job,
    cores,
    default_jobs,
    gpus,
    thread_count,
    thread_environment,
)
from ntdh_bench.sweep.execution import execute, in_words, load_function
from ntdh_bench.sweep.store import Store

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default, without its warning
}
# A Ray of its own; with its address, for which Ray would ask the network otherwise.
_OWN = {"address": "local", "_node_ip_address": "127.0.0.1", "include_dashboard": False}


class RayWorker:
    """An actor: imports the run function once, then does one job after the other."""

    def __init__(self, function: str) -> None:
        self.function = load_function(function)

    def ready(self) -> None:
        """Return when the actor has started."""

    def run(self, configs: list[dict[str, Any]], kept: str | None) -> tuple[str, str]:
        """Return the answer of :func:`execute`, and the log.

        Args:
            configs: of the runs.
            kept: a folder that stays, on a disk of the driver's; None: a temporary one.
        """
        with tempfile.TemporaryDirectory(prefix="ntdh-run-") as temporary:
            log = Path(temporary) / "log"
            folder = Path(kept or f"{temporary}/run")
            answer = execute(self.function, configs, folder, log, keep=kept is not None)
            return answer, log.read_text(errors="replace")


class RayEngine(Engine):
    """Actors that each hold an even share of the cores, and ``gpus_per_run`` of a GPU.

    Args:
        store: where logs go.
        jobs: how many workers; default: what the GPUs, or else the cores, hold.
        gpus_per_run: share of a GPU that a worker takes, where there are GPUs.
        address: of a cluster (``auto``: the one this machine is part of); None: a Ray of its own.
        n_runs: no more workers than this.
        function: runs configs.

    Raises:
        UserError: Ray is not installed, or there is no cluster.
    """

    def __init__(
        self,
        store: Store,
        jobs: int | None = None,
        gpus_per_run: float = 1.0,
        address: str | None = None,
        n_runs: int = sys.maxsize,
        function: str = FUNCTION,
    ) -> None:
        self._ray, self._store, self._function = _import_ray(), store, function
        self._same_disk = not address
        n_cores, self.n_gpus = self._cluster(address) if address else (cores(), len(gpus()))
        jobs = jobs or default_jobs(self.n_gpus, gpus_per_run, n_cores)
        self.threads = thread_count(jobs, n_cores)
        self.jobs = min(jobs, n_runs)
        variables = thread_environment(self.threads)
        if "NTDH_DATA" in os.environ:
            variables["NTDH_DATA"] = os.environ["NTDH_DATA"]
        if not address:
            self._connect(**_OWN, num_cpus=self.jobs * self.threads, num_gpus=self.n_gpus)
            variables["PYTHONPATH"] = os.pathsep.join(sys.path)
        self._actor = self._ray.remote(
            num_cpus=self.threads,
            num_gpus=gpus_per_run if self.n_gpus else 0,
            runtime_env={"env_vars": variables},
        )(RayWorker)
        self._idle: list[Any] = []
        # What each actor is at: its job, or while it starts, the number of the attempt.
        self._busy: dict[Any, tuple[Any, str | int]] = {}
        for _ in range(self.jobs):
            self._start()

    def _cluster(self, address: str) -> tuple[int, int]:
        """Join a cluster; returns its cores and GPUs."""
        self._connect(address=address)
        resources = self._ray.cluster_resources()
        return int(resources.get("CPU", 1)), int(resources.get("GPU", 0))

    def _connect(self, **settings: Any) -> None:
        # Ctrl-C waits: a Ray that is interrupted while it starts leaves processes behind.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._ray.init(logging_level=logging.ERROR, log_to_driver=False, **settings)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"cannot start or reach Ray: {in_words(error)}") from None
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def _start(self, attempt: int = 1) -> None:
        actor = self._actor.remote(self._function)
        self._busy[actor.ready.remote()] = (actor, attempt)

    @property
    def idle(self) -> int:
        """Number of workers that have started and wait for a job."""
        return len(self._idle)

    def submit(self, job: Job) -> None:
        """Give a job to an idle worker."""
        actor = self._idle.pop()
        kept = self._same_disk and len(job.runs) > 1
        folder = str(self._store.stack(job.name).absolute()) if kept else None
        result = actor.run.remote([run.config for run in job.runs], folder)
        self._busy[result] = (actor, job.name)

    def wait(self, seconds: float) -> list[Finished]:
        """Return the jobs that finished or failed, as soon as there is news.

        Raises:
            UserError: no worker is left that can start.
        """
        results = list(self._busy)
        if not results:  # runs that another sweep holds are waited for
            time.sleep(seconds)
            return []
        first, _ = self._ray.wait(results, timeout=seconds)
        ready, _ = self._ray.wait(results, num_returns=len(results), timeout=0)
        news = [self._hear(result) for result in ready or first]
        return [finished for finished in news if finished is not None]

    def _hear(self, result: Any) -> Finished | None:
        actor, job = self._busy.pop(result)
        try:
            answer = self._ray.get(result)
        except self._ray.exceptions.RayError as error:
            if isinstance(job, int):
                self._start_again(job, in_words(error))
                return None
            self._start()
            return Finished(job, failure=f"the worker was lost: {in_words(error)}")
        self._idle.append(actor)
        if isinstance(job, int):
            return None
        text, log = answer
        with self._store.log(job).open("a") as file:
            file.write(log)
        return Finished.of_answer(job, text)

    def _start_again(self, attempt: int, reason: str) -> None:
        if attempt < STARTS:
            self._start(attempt + 1)
        elif self._idle or self._busy:
            notice(f"a worker cannot start: {reason}; {len(self._idle) + len(self._busy)} go on")
        else:
            raise UserError(f"the workers cannot start: {reason}, {STARTS} times")

    def kill(self, job: str) -> None:
        """End a job at once; nothing more is heard of it, and its worker is replaced."""
        result = next(result for result, (_, busy) in self._busy.items() if busy == job)
        actor, _ = self._busy.pop(result)
        self._ray.kill(actor)
        self._start()

    def close(self) -> None:
        """End all workers, and what they run."""
        for actor in [*self._idle, *(actor for actor, _ in self._busy.values())]:
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor)
        self._ray.shutdown()


def _import_ray() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return import_module("ray")
    except ImportError:
        raise UserError(
            'the engine ray is an extra: pip install "ntdh-bench[ray]", or use --engine local'
        ) from None
