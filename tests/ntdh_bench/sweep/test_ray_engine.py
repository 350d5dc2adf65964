"""The Ray engine on a Ray of this machine's own."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock

from ntdh_bench.errors import UserError
from ntdh_bench.records import read_record
from ntdh_bench.sweep.driver import Driver, Outcome
from ntdh_bench.sweep.local import LocalEngine
from ntdh_bench.sweep.ray_engine import RayEngine
from ntdh_bench.sweep.store import Store


def test_without_ray(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'pip install "ntdh-bench\[ray\]"'):
        RayEngine(store)


def test_same_records_as_local(store: Store, trace: Path, tmp_path: Path) -> None:
    """A failure, a crash, a hanging run and one that another sweep gives up, too."""
    pytest.importorskip("ray")
    from stubs import make_runs  # type: ignore[import-not-found]

    acts = ("fail", "exit", "hang", "ok", "ok", "ok")
    runs = [make_runs(trace, number + 1, act=act)[-1] for number, act in enumerate(acts)]
    other = Store(tmp_path / "other")
    other.prepare()
    reasons = {}
    for kind, place in ((RayEngine, store), (LocalEngine, other)):
        held = place.claim(runs[5].hash)
        assert held is not None

        def give_up(outcome: Outcome, lock: FileLock = held) -> None:
            if outcome.left == 1 and not outcome.running:
                lock.release()

        with closing(kind(place, 2, function="stubs:run")) as engine:
            driver = Driver(runs, place, engine, timeout=2, report=give_up)
            driver.drive()
        assert (driver.outcome.done, driver.outcome.left) == (3, 0)
        reasons[kind] = {failure.run.seed: failure.reason for failure in driver.outcome.failures}
    assert reasons[RayEngine][0] == reasons[LocalEngine][0]
    assert reasons[RayEngine][1].startswith("the worker was lost")
    assert reasons[RayEngine][2] == reasons[LocalEngine][2] == "killed after 2 s (--timeout)"
    for run in runs[3:]:
        one, two = (read_record(place.record(run.hash)) for place in (store, other))
        for key in ("run", "metrics", "variables"):
            assert one[key] == two[key]
        log = f"output of run {run.seed}\noutput of a subprocess\n"
        assert store.log(run.hash).read_text() == other.log(run.hash).read_text() == log
    assert "Traceback" in store.log(runs[0].hash).read_text()


def test_no_cluster(store: Store) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="Ray"):
        RayEngine(store, address="auto")
