"""The local engine: worker processes on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing.connection import wait as wait_for_any

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
from ntdh_bench.sweep.store import Store


class LocalEngine(Engine):
    """Persistent worker processes, with a GPU each in turn and an even share of the cores.

    Args:
        store: where logs and scratch folders go.
        jobs: how many workers; default: what the GPUs, or else the cores, hold.
        gpus_per_run: share of a GPU that a worker takes, for the default of ``jobs``.
        n_runs: no more workers than this; the share of the cores stays what ``jobs`` gives, since
            results depend on the number of threads.
        function: runs configs.
    """

    def __init__(
        self,
        store: Store,
        jobs: int | None = None,
        gpus_per_run: float = 1.0,
        n_runs: int = sys.maxsize,
        function: str = FUNCTION,
    ) -> None:
        self._store, self._function = store, function
        self._devices = gpus()
        self.n_gpus = len(self._devices)
        jobs = jobs or default_jobs(self.n_gpus, gpus_per_run, cores())
        self.threads = thread_count(jobs, cores())
        self.jobs = min(jobs, n_runs)
        self._workers = [self._start(number) for number in range(self.jobs)]

    def _start(self, number: int, attempt: int = 1) -> _Worker:
        environment = {**os.environ, **thread_environment(self.threads)}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)  # what is importable here is there
        if self._devices:
            environment["CUDA_VISIBLE_DEVICES"] = self._devices[number % len(self._devices)]
        return _Worker(number, attempt, [self._function, str(self._store.root)], environment)

    @property
    def idle(self) -> int:
        """Number of workers that have started and wait for a job."""
        return sum(worker.idle for worker in self._workers)

    def submit(self, job: Job) -> None:
        """Give a job to an idle worker."""
        next(worker for worker in self._workers if worker.idle).send(job)

    def wait(self, seconds: float) -> list[Finished]:
        """Return the jobs that finished or failed, as soon as there is news.

        Raises:
            UserError: no worker is left that can start.
        """
        # Looked up first: all that a worker wrote before it died can then be read.
        dead = [worker for worker in self._workers if worker.process.poll() is not None]
        pipes = [worker.answers.fileno() for worker in self._workers]
        readable = wait_for_any(pipes, 0 if dead else seconds)
        heard = [worker for worker in self._workers if worker.answers.fileno() in readable]
        news = [self._hear(worker, worker.read()) for worker in heard]
        news += [self._hear(worker, None) for worker in dead if worker not in heard]
        return [finished for finished in news if finished is not None]

    def _hear(self, worker: _Worker, answer: str | None) -> Finished | None:
        """Act on a worker's answer, None if it died."""
        if answer is None:
            return self._bury(worker)
        if not worker.ready:
            said = json.loads(answer)
            worker.ready = "broken" not in said
            if not worker.ready:
                self._give_up(worker, said["broken"])
            return None
        job, worker.job = worker.job, None
        return Finished.of_answer(job, answer) if job else None

    def _bury(self, worker: _Worker) -> Finished | None:
        reason = worker.how_it_died()
        if worker.ready:
            self._replace(worker)
            return Finished(worker.job, failure=reason) if worker.job else None
        if worker.attempt < STARTS:
            self._replace(worker, worker.attempt + 1)
        else:
            self._give_up(worker, f"{reason}, {STARTS} times")
        return None

    def _give_up(self, worker: _Worker, reason: str) -> None:
        """Go on with the other workers.

        Raises:
            UserError: there are none.
        """
        worker.end()
        self._workers.remove(worker)
        if not self._workers:
            raise UserError(f"the workers cannot start: {reason}; see {self._store.workers_log}")
        notice(f"a worker cannot start: {reason}; {len(self._workers)} go on")

    def _replace(self, worker: _Worker, attempt: int = 1) -> None:
        self._clean(worker)
        place = self._workers.index(worker)
        self._workers[place] = self._start(worker.number, attempt)

    def kill(self, job: str) -> None:
        """End a job at once; nothing more is heard of it, and its worker is replaced."""
        worker = next(worker for worker in self._workers if worker.job == job)
        worker.end()
        self._replace(worker)

    def close(self) -> None:
        """End all workers, and what they run."""
        for worker in self._workers:
            worker.end()
            self._clean(worker)

    def _clean(self, worker: _Worker) -> None:
        if worker.job:
            shutil.rmtree(self._store.scratch(worker.job, worker.process.pid), ignore_errors=True)


class _Worker:
    """A worker process as the driver sees it."""

    def __init__(
        self, number: int, attempt: int, arguments: list[str], environment: dict[str, str]
    ) -> None:
        self.number, self.attempt = number, attempt
        self.ready = False
        self.job: str | None = None
        # A session of its own: Ctrl-C reaches the driver alone, and the whole group can be killed.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ntdh_bench.sweep.process", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout

    @property
    def idle(self) -> bool:
        return self.ready and self.job is None

    def send(self, job: Job) -> None:
        self.job = job.name
        request = {"name": job.name, "configs": [run.config for run in job.runs]}
        with suppress(BrokenPipeError):  # it died: heard of by the next wait
            self.requests.write(json.dumps(request).encode() + b"\n")
            self.requests.flush()

    def read(self) -> str | None:
        """Return the next answer, None if the worker died."""
        line = self.answers.readline()
        return line.decode() if line.endswith(b"\n") else None

    def how_it_died(self) -> str:
        with suppress(subprocess.TimeoutExpired):  # its last words are read: let it end by itself
            self.process.wait(1)
        self.end()
        status = self.process.returncode
        if status >= 0:
            return f"the worker ended with exit status {status}"
        name = signal.Signals(-status).name
        return f"the worker was killed by {name}" + (
            " (out of memory?)" if name == "SIGKILL" else ""
        )

    def end(self) -> None:
        """Kill the process and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.requests, self.answers):
            with suppress(BrokenPipeError):
                stream.close()
