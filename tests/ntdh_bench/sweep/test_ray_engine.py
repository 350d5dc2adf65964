"""The Ray engine on a Ray of this machine's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from filelock import FileLock

from ntdh_bench.commands import sweep
from ntdh_bench.errors import UserError
from ntdh_bench.records.files import read_record
from ntdh_bench.sweep.driver import Driver, Outcome
from ntdh_bench.sweep.engine import Job
from ntdh_bench.sweep.local import LocalEngine
from ntdh_bench.sweep.ray_engine import RayEngine
from ntdh_bench.sweep.store import Store
from tests.typed import some


def test_without_ray(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'pip install "ntdh-bench\[ray\]"'):
        RayEngine(store)


class RayOfActorsThatDie:
    """As much of Ray as starting actors takes; ``lives`` says which of them start."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self, lives: Sequence[bool]) -> None:
        self.lives = iter(lives)
        self.started = 0

    def init(self, **settings: object) -> None: ...

    def shutdown(self) -> None: ...

    def kill(self, actor: object) -> None: ...

    def remote(self, **options: object) -> Callable[[type], object]:
        def start(function: str) -> object:
            self.started += 1
            lives = next(self.lives)
            return SimpleNamespace(ready=SimpleNamespace(remote=lambda: (self.started, lives)))

        return lambda cls: SimpleNamespace(remote=start)

    def wait(self, results: list[object], **limits: object) -> tuple[list[object], list[object]]:
        return results[:1], results[1:]

    def get(self, result: tuple[int, bool]) -> None:
        if not result[1]:
            raise RuntimeError("it died")


def test_actors_that_die_while_starting_are_started_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = RayOfActorsThatDie([False, False, True])
    monkeypatch.setitem(sys.modules, "ray", ray)
    engine = RayEngine(store, 1)
    while not engine.idle:
        engine.wait(0)
    assert ray.started == 3

    ray = RayOfActorsThatDie([True, False, False, False])
    monkeypatch.setitem(sys.modules, "ray", ray)
    engine = RayEngine(store, 2)
    for _ in range(4):
        engine.wait(0)
    assert (engine.idle, ray.started) == (1, 4)
    assert "a worker cannot start: RuntimeError: it died; 1 go on" in capsys.readouterr().err

    monkeypatch.setitem(sys.modules, "ray", RayOfActorsThatDie([False] * 3))
    engine = RayEngine(store, 1)
    with pytest.raises(UserError, match="the workers cannot start: RuntimeError: it died, 3 times"):
        list(map(engine.wait, [0, 0, 0]))


def test_same_records_as_local(store: Store, trace: Path, tmp_path: Path) -> None:
    """A failure, a crash, a hanging run and one that another sweep gives up, too; and a stack."""
    pytest.importorskip("ray")
    from stubs import make_runs  # type: ignore[import-not-found]

    acts = ("fail", "exit", "hang", "ok", "ok", "ok", "ok", "user_error", "ok")
    runs = [make_runs(trace, number + 1, act=act)[-1] for number, act in enumerate(acts)]
    other = Store(tmp_path / "other")
    other.prepare()
    reasons = {}
    for kind, place in ((RayEngine, store), (LocalEngine, other)):
        held = some(place.claim(runs[5].hash))

        def give_up(outcome: Outcome, lock: FileLock = held) -> None:
            if outcome.left == 1 and not outcome.running:
                lock.release()

        with closing(kind(place, 2, function="stubs:run")) as engine:
            jobs = [*([run] for run in runs[:6]), runs[6:]]
            driver = Driver(jobs, place, engine, timeout=2, report=give_up)
            driver.drive()
        assert (driver.outcome.done, driver.outcome.left) == (5, 0)
        assert not list((place.root / "stacks").iterdir())
        reasons[kind] = {failure.run.seed: failure.reason for failure in driver.outcome.failures}
    assert reasons[RayEngine][0] == reasons[LocalEngine][0]
    assert reasons[RayEngine][1].startswith("the worker was lost")
    assert reasons[RayEngine][2] == reasons[LocalEngine][2] == "killed after 2 s (--timeout)"
    assert reasons[RayEngine][7] == reasons[LocalEngine][7] == "mnist: no files in data/"
    stack = Job(tuple(runs[6:])).name
    assert "output of run 8" in store.log(stack).read_text()
    for run in (runs[6], runs[8]):
        assert read_record(store.record(run.hash))["stack"] == 9
    for run in runs[3:6]:
        one, two = (read_record(place.record(run.hash)) for place in (store, other))
        for key in ("run", "metrics", "variables"):
            assert one[key] == two[key]
        log = f"output of run {run.seed}\noutput of a subprocess\n"
        assert store.log(run.hash).read_text() == other.log(run.hash).read_text() == log
    assert "Traceback" in store.log(runs[0].hash).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("stack", ["off", "4"])
def test_real_runs_are_bitwise_equal_to_local(
    stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KD and its control, each without and with a mask; nothing is shared but the config."""
    pytest.importorskip("ray")
    configs = Path("configs").resolve()
    mask = {
        "config": str(configs / "overlays" / "feature_mask.yaml"),
        "mask.init_args.layer": "input",
        "mask.init_args.permutations": 1,
    }
    spec = {
        "title": "Short", "requires": "synthetic", "keep": ["curves"],
        "base": str(configs / "synthetic_converged.yaml"),
        "protocols": {"short": {"overrides": {
            "trainer.max_epochs": 2, "data.init_args.steps_per_epoch": 5,
        }}},
        "grids": [{"axes": {
            "method": {"KD": {}, "without_kd": {"model.init_args.distiller": None}},
            "mask": {"none": {"mask": None}, "T": mask},
        }}],
    }  # fmt: skip
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(spec))
    found = []
    for engine in ("local", "ray"):
        folder = tmp_path / engine
        monkeypatch.setenv("NTDH_CACHE", str(folder / "cache"))
        places = ["--runs", str(folder / "runs"), "--results", str(folder)]
        how = ["--engine", engine, "--jobs", "2", "--stack", stack]
        assert sweep.main(["sweep", str(path), *how, *places]) == 0
        trained = "students" if stack == "off" else "teachers"
        assert list((folder / "cache").glob(f"{trained}/*.ckpt"))  # here, not shared
        records = [read_record(p) for p in sorted((folder / "runs" / "records").iterdir())]
        found.append(records)
    local, ray = found
    assert len(local) == len(ray) == 4
    assert {record.get("stack") for record in (*local, *ray)} == {2 if stack == "4" else None}
    assert {record["arm"] for record in local} == {"kd", "without_kd"}
    assert sum(record["config"]["mask"] is not None for record in local) == 2
    for one, two in zip(local, ray, strict=True):
        for key in ("run", "config_hash", "metrics", "curves", "teacher_hash", "environment"):
            assert one[key] == two[key]


def test_no_cluster(store: Store) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="Ray"):
        RayEngine(store, address="auto")
