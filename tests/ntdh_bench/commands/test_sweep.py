"""The command on stub runs: what it selects, says and leaves; no torch anywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ntdh_bench.commands import sweep
from ntdh_bench.datasets import data_root
from ntdh_bench.errors import UserError
from ntdh_bench.experiments import load_experiment
from ntdh_bench.records.rows import read_rows
from ntdh_bench.sweep import progress
from ntdh_bench.sweep.driver import Failure, Outcome

STUBS = Path(__file__).parents[1] / "sweep"
Sweep = Callable[..., int]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write(tmp_path, {})


def write(folder: Path, changes: Mapping[str, Any]) -> Path:
    """An experiment of 2 x 2 cells and 2 seeds."""
    content = {
        "title": "Stubs",
        "requires": "synthetic",
        "protocols": {"quick": {"seeds": 2}, "long": {"seeds": 1, "overrides": {"long": True}}},
        "grids": [
            {
                "overrides": {"trace": str(folder / "trace")},
                "axes": {"method": {"KD": {}, "DKD": {"dkd": True}}, "mask.ratio": [0.25, 0.5]},
            }
        ],
        **changes,
    }
    path = folder / "stubs_only.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def run(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """``ntdh-bench sweep`` of the experiment, with two workers."""
    monkeypatch.syspath_prepend(STUBS)
    monkeypatch.setattr(sweep, "FUNCTION", "stubs:run")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    return lambda *words: sweep.main(["sweep", str(config), *places, "--jobs", "2", *words])


def rows(folder: Path, name: str = "stubs_only") -> list[dict[str, Any]]:
    return read_rows(folder / "results" / "records" / f"{name}.csv").rows


def started(folder: Path) -> int:
    trace = folder / "trace"
    return trace.read_text().count("start") if trace.exists() else 0


def test_a_whole_sweep_then_nothing_to_do(
    run: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    shown = capsys.readouterr().out
    assert "stubs_only: 8 runs, 0 complete" in shown
    assert "8 done, 0 failed, in" in shown
    assert "stubs_only.csv, 8 of 12 runs" in shown
    assert [row["seed"] for row in rows(tmp_path)] == [0, 1] * 4
    assert run() == 0
    assert "8 runs, 8 complete" in capsys.readouterr().out
    assert started(tmp_path) == 8
    for record in (tmp_path / "runs" / "records").iterdir():  # rows in the CSV do as well
        record.unlink()
    assert run() == 0
    assert (started(tmp_path), len(rows(tmp_path))) == (8, 8)


def test_complete_runs_are_done_again_when_asked_for(
    run: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    before = {row["run"]: row for row in rows(tmp_path)}
    capsys.readouterr()
    again = ("--rerun", "--only", "seed=1")
    assert run(*again, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert (shown.count("to do\n"), shown.count("done\n")) == (4, 0)
    assert run(*again) == 0
    assert "4 done, 0 failed" in capsys.readouterr().out
    assert started(tmp_path) == 12
    for row in rows(tmp_path):
        assert (row == before[row["run"]]) == (row["seed"] == 0)
    kept = rows(tmp_path)
    monkeypatch.setattr(sweep, "FUNCTION", "stubs:no_record")
    assert run(*again) == 1
    assert rows(tmp_path) == kept  # a failed attempt loses nothing


def test_a_damaged_record_is_run_again_and_named(
    run: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    victim = sorted((tmp_path / "runs" / "records").iterdir())[3]
    victim.write_text(victim.read_text()[:50])
    capsys.readouterr()
    assert run() == 0
    shown = capsys.readouterr().out
    assert f"damaged record, run again: {victim}.damaged" in shown
    assert "problem" not in shown
    assert (started(tmp_path), len(rows(tmp_path))) == (9, 8)


def test_failures_are_named_and_counted(
    run: Sweep, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = {"act": ["ok", "user_error", "killed", "hang"]}
    overrides = {"trace": str(tmp_path / "trace")}
    write(tmp_path, {"grids": [{"overrides": overrides, "axes": axes}]})
    assert run("--timeout", "1", "--only", "seed=1") == 1
    shown, told = capsys.readouterr()
    assert "1 done, 3 failed" in shown
    for act, reason in (
        ("user_error", "mnist: no files in data/"),
        ("killed", "the worker was killed by SIGKILL"),
        ("hang", "killed after 1 s"),
    ):
        (line,) = [line for line in shown.splitlines() if line.startswith(f"failed: act={act}, ")]
        assert f"seed 1: {reason}" in line
        assert Path(line.rpartition("log: ")[2]).is_file()
        assert f"failed: act={act}, protocol quick, seed 1: {reason}" in told
    assert len(rows(tmp_path)) == 1


def test_dry_run(run: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--dry-run") == 0
    header, *listed, _, alone, total = capsys.readouterr().out.splitlines()
    columns = ["method", "mask.ratio", "protocol", "seed", "run", "stack", "state"]
    assert header.split() == columns
    assert alone == "alone: 8 runs: model None"
    assert listed[0].split()[:4] == ["KD", "0.25", "quick", "0"]
    assert len(listed) == 8
    assert total == "8 runs, 8 to do; no basis for 8 of 8 runs: none like them is finished"
    assert [path.name for path in tmp_path.iterdir()] == ["stubs_only.yaml"]

    run("--only", "method=DKD")
    for record in (tmp_path / "runs" / "records").iterdir():
        record.write_text(record.read_text().replace('"seconds": 0.', '"seconds": 90.'))
    capsys.readouterr()
    run("--dry-run")
    shown = capsys.readouterr().out
    assert (shown.count("to do\n"), shown.count("done\n")) == (4, 4)
    assert "8 runs, 4 to do; no basis for 4 of 4 runs: none like them is finished" in shown
    run("--dry-run", "--rerun", "--jobs", "1")
    assert (
        "8 runs, 8 to do: about 6 min 00 s for 4 of them, at 1 min 30 s a run and 1 at once; "
        "no basis for 4 of 8 runs"
    ) in capsys.readouterr().out
    run("--dry-run", "--rerun", "--only", "method=DKD")
    assert "4 runs, 4 to do: about 3 min 00 s, at" in capsys.readouterr().out
    run("--dry-run", "--protocol", "long")
    assert "4 runs, 4 to do; no basis for 4 of 4 runs" in capsys.readouterr().out


def test_an_experiment_on_several_data_sets(
    run: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that are not there are told in a line each, and the others are done."""
    sets = {
        name: {"seeds": 3, "overrides": {"data.name": name, "act": act, "model.init_args": {}}}
        for name, act in (("here", "ok"), ("gone", "no_data"), ("lost", "no_data"), ("big", "ok"))
    }
    overrides = {"trace": str(tmp_path / "trace")}
    grid = {"overrides": overrides, "axes": {"method": {"KD": {}, "DKD": {"dkd": True}}}}
    changes = {"protocols": sets, "default": ["here", "gone", "lost"], "grids": [grid]}
    write(tmp_path, changes)
    assert run("--dry-run") == 0
    assert "18 runs, 18 to do; no basis for 18 of 18 runs" in capsys.readouterr().out
    assert run("--jobs", "1") == 1
    shown, told = capsys.readouterr()
    assert "6 done, 12 failed, in" in shown
    failed = [line for line in shown.splitlines() if line.startswith("failed")]
    assert [line.rpartition("; log: ")[0] for line in failed] == [
        f"failed: 6 runs of protocol {name} on its data: data/{name} is missing"
        for name in ("gone", "lost")
    ]
    assert told.count("failed: method=KD, protocol gone, seed 0: data/gone is missing") == 1
    assert started(tmp_path) == 6 + 2
    assert {row["protocol"] for row in rows(tmp_path)} == {"here"}
    run("--dry-run", "--protocol", "here,gone", "--rerun")
    assert "for 6 of them, at 0 s a run" in capsys.readouterr().out


def test_dry_run_of_stacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A column that says which, and a line for each; without torch or the data."""
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path)]
    only = ["--only", "mask.init_args.ratio=0.5", "--only", "seed=0,1"]
    dry_run = ["sweep", "fig9b_features", "--dry-run", *places, *only, "--jobs", "1"]
    assert sweep.main(dry_run) == 0
    header, *listed, _, stack, total = capsys.readouterr().out.splitlines()
    assert header.split()[-3:] == ["run", "stack", "state"]
    assert {line.split()[-3] for line in listed} == {"1"}
    assert stack == f"stack 1: {len(listed)} runs, seeds 0 to 1"
    assert total.startswith(f"{len(listed)} runs, {len(listed)} to do; no basis for {len(listed)}")
    assert sweep.main([*dry_run, "--stack", "off"]) == 0
    shown = capsys.readouterr().out
    assert f"alone: {len(listed)} runs: --stack off" in shown
    assert "stack 1" not in shown


def test_a_sweep_of_stacks(
    run: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many runs together as the dry run says; `--stack off` does one after the other."""
    axes = {"model.init_args.distill_weight": [0.5, 1.0, 2.0]}
    grid = {"overrides": {"trace": str(tmp_path / "trace")}, "axes": axes}
    write(tmp_path, {"base": "ravdess_features_kd", "grids": [grid]})
    assert run("--dry-run", "--jobs", "1") == 0
    assert "stack 1: 6 runs, seeds 0 to 1\n" in capsys.readouterr().out
    assert run("--jobs", "1", "--only", "seed=0") == 0
    assert "1 at once, 1 thread(s) each; 1 stack(s) of 3 runs\n" in capsys.readouterr().out
    assert run("--jobs", "1", "--stack", "off") == 0
    assert "1 thread(s) each\n" in capsys.readouterr().out
    assert [row["stack"] for row in rows(tmp_path)] == [9, None] * 3
    assert [row["seed"] for row in rows(tmp_path)] == [0, 1] * 3
    trace = (tmp_path / "trace").read_text()
    assert trace.count("stack") == 1
    assert trace.startswith("stack 0,0,0 starts")
    assert run("--jobs", "1", "--rerun", "--stack", "2", "--only", "seed=1") == 0
    assert "1 stack(s) of 2 runs, 1 alone" in capsys.readouterr().out


def test_a_number_of_stacked_runs_where_none_can_be(
    run: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="--stack 4: none of these runs can be in a stack: model"):
        run("--dry-run", "--stack", "4")
    for wrong in ("1", "all"):
        with pytest.raises(SystemExit):
            run("--dry-run", "--stack", wrong)
        assert "give auto, off or a number from 2" in capsys.readouterr().err


def test_the_data_root_is_for_the_workers_too(
    run: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NTDH_DATA", "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert run("--data.root", "here", "--dry-run") == 0
    assert data_root(None) == tmp_path / "here"


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--only", "method=DKD"], 4),
        (["--only", "mask.ratio=0.25,0.5", "--only", "method=KD", "--only", "seed=1"], 2),
        (["--protocol", "long"], 4),
        (["--protocol", "long,quick", "--only", "method=KD"], 6),
    ],
)
def test_selection(
    run: Sweep, capsys: pytest.CaptureFixture[str], words: list[str], count: int
) -> None:
    assert run("--dry-run", *words) == 0
    assert f"\n{count} runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "fast"], "no protocol fast: choose from quick, long"),
        (["--only", "ratio=0.25"], "no axis ratio here; did you mean 'mask.ratio'"),
        (["--only", "method=KD,CRD"], "has no 'CRD' here; there are KD, DKD"),
        (["--set", "a=1"], "--name"),
        (["--name", "stubs_only"], "no experiment's name"),
        (["--set", "a", "--name", "new"], "dotted.key=value"),
        (["--set", "a=1", "--name", "stubs_only"], "no experiment's name"),
        (["--set", "a=1", "--name", "../new"], "no experiment's name"),
        (["--address", "auto"], "--engine ray"),
    ],
)
def test_mistakes(run: Sweep, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        run(*words)
    assert started(tmp_path) == 0


@pytest.mark.parametrize("words", ["--jobs 0", "--jobs 1.5", "--timeout -1", "--retries -1"])
def test_numbers_out_of_range(run: Sweep, words: str) -> None:
    with pytest.raises(SystemExit):
        run(*words.split())


def test_a_missing_data_set(run: Sweep, tmp_path: Path) -> None:
    write(tmp_path, {"requires": "nowhere"})
    with pytest.raises(UserError, match=r"stubs_only needs the data set nowhere.*data list"):
        run("--dry-run")


def test_a_changed_experiment_has_its_own_records(run: Sweep, tmp_path: Path) -> None:
    assert run("--only", "method=KD") == 0
    assert run("--only", "method=KD", "--set", "model.width=8", "--name", "wide") == 0
    one, two = rows(tmp_path), rows(tmp_path, "wide")
    assert not {row["run"] for row in one} & {row["run"] for row in two}
    assert {row["experiment"] for row in two} == {"wide"}
    assert len(two) == 4


def test_a_shipped_name_is_for_the_shipped_runs(config: Path, tmp_path: Path) -> None:
    other = config.rename(tmp_path / "smoke.yaml")
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    with pytest.raises(UserError, match=r"smoke\.yaml has the name of .*smoke\.yaml.*--name NEW"):
        sweep.main(["sweep", str(other), "--dry-run"])
    assert sweep.main(["sweep", str(other), "--dry-run", "--name", "mine", *places]) == 0
    assert sweep.main(["sweep", "configs/sweeps/smoke.yaml", "--dry-run", *places]) == 0


def test_labels_with_commas(run: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"grids": [{"axes": {"model.hidden": [[4, 4], [8, 8], 16]}}]})
    assert run("--dry-run", "--only", "model.hidden=[4, 4]") == 0
    shown = capsys.readouterr().out
    assert "\n2 runs" in shown
    assert "[8, 8]" not in shown


def test_interrupted_then_resumed(config: Path, tmp_path: Path) -> None:
    """Ctrl-C in a process of its own: workers end, what is finished is kept, no torch."""
    code = (
        "import signal, sys, ntdh_bench.commands.sweep as sweep\n"
        "from ntdh_bench.cli import main\n"
        # A shell that starts the tests in the background has them ignore Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sweep.FUNCTION = 'stubs:run'\n"
        f"status = main(['sweep', {str(config)!r}, '--jobs', '2', *sys.argv[1:]])\n"
        "assert not {'torch', 'lightning', 'numpy'} & sys.modules.keys()\n"
        "sys.exit(status)"
    )
    # The first two finish, whatever the load; the others wait until they are asked to.
    cells = {"early": {}, **{f"late{number}": {"act": "wait", "late": number} for number in (1, 2)}}
    grid = {"overrides": {"trace": str(tmp_path / "trace")}, "axes": {"cell": cells}}
    write(tmp_path, {"grids": [grid]})
    command = [sys.executable, "-c", code, "--runs", "runs", "--results", "results"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(STUBS), *sys.path])}
    common: dict[str, Any] = {"cwd": tmp_path, "env": environment, "text": True}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, **common)
    deadline = time.monotonic() + 60
    while started(tmp_path) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    shown = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "the same command goes on where it stopped" in shown
    assert "2 done, 0 failed, 4 left" in shown
    assert len(rows(tmp_path)) == 2
    assert list((tmp_path / "runs" / "work").iterdir()) == []

    (tmp_path / "go").touch()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, **common)
    assert done.returncode == 0
    assert "6 runs, 2 complete" in done.stdout
    assert len(rows(tmp_path)) == 6


def test_progress_without_a_terminal(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_PERIOD", 0.0)
    shown = progress.Progress(60, jobs=2)
    first = load_experiment(config).runs[0]
    outcome = Outcome(left=41, done=12, elsewhere=6, running=2, seconds=1200)
    outcome.failures.append(Failure(first, "out of luck"))
    shown.update(outcome)
    shown.update(outcome)
    status, failed, again = capsys.readouterr().err.splitlines()
    assert failed == "failed: method=KD, ratio=0.25, protocol quick, seed 0: out of luck"
    assert status == again == "18 done, 1 failed, 41 to go, about 34 min 10 s left"


def test_progress_on_a_terminal(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.Progress(3, jobs=1) as shown:
        shown.update(Outcome(left=1, done=2, seconds=7200))
    assert "2 done, 0 failed, 1 to go, about 1 h 00 min left" in capsys.readouterr().err


def test_stacks_at_once_are_all_shown_beside_the_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    stages = ["teachers, epoch 12 of 50", "students, epoch 3 of 50"]
    with progress.Progress(400, jobs=2) as shown:
        shown.update(Outcome(left=400, stages=stages))
    bar, _, words = capsys.readouterr().err.rpartition("\r")[2].partition("0:00:0")
    assert "━" in bar
    words = " ".join(words.split())
    assert all(f"a stack: {stage}" in words for stage in stages)


def test_durations() -> None:
    assert [progress.duration(s) for s in (0.4, 61, 3599.6, 7260)] == [
        "0 s", "1 min 01 s", "1 h 00 min", "2 h 01 min",
    ]  # fmt: skip
