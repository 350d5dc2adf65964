"""``ntdh-bench sweep``: all runs of an experiment, resuming what is done. Imports no torch."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from ntdh_bench.commands.arguments import Parser
from ntdh_bench.commands.sweep_plan import plan_summary, print_plan
from ntdh_bench.commands.sweep_transfer import print_export, print_import
from ntdh_bench.composition import parse_assignment
from ntdh_bench.errors import UserError
from ntdh_bench.experiments import (
    Experiment,
    Run,
    find_experiment,
    load_experiment,
    shipped_experiments,
)
from ntdh_bench.notices import add_verbosity, is_quiet, speaking
from ntdh_bench.records.collecting import collect
from ntdh_bench.records.csvs import Collected
from ntdh_bench.records.rows import csv_path
from ntdh_bench.stacks.plan import Machine, Plan, Stacking, check_stackable, make_plan
from ntdh_bench.suggestions import did_you_mean
from ntdh_bench.sweep.driver import Driver, Outcome
from ntdh_bench.sweep.engine import FUNCTION, Engine, cores, default_jobs, gpus, stack_memory
from ntdh_bench.sweep.estimate import expected_seconds
from ntdh_bench.sweep.local import LocalEngine
from ntdh_bench.sweep.progress import Progress, duration, failed
from ntdh_bench.sweep.store import Store, finished_runs
from ntdh_bench.sweep.transfer import check_target, import_records

_INTERRUPTED = 130


def main(argv: Sequence[str]) -> int:
    """Run ``ntdh-bench sweep``.

    Returns:
        1 if a run failed or there was nothing to export, 130 if it was interrupted, else 0.

    Raises:
        UserError: the experiment or an option is wrong, or its data set is not there.
    """
    options = parser().parse_args(argv[1:])
    if options.data_root:
        os.environ["NTDH_DATA"] = str(
            options.data_root.expanduser().absolute()
        )  # workers inherit it
    experiment = _experiment(options)
    if options.import_from:
        return _import(experiment, Store(options.runs), options)
    runs = _selected(experiment, options)
    check_stackable(runs, options.stack)
    store = Store(options.runs)
    finished = finished_runs(experiment, store, options.results)
    complete = finished.keys() - ({run.hash for run in runs} if options.rerun else set())
    todo = list({run.hash: run for run in runs if run.hash not in complete}.values())
    if options.dry_run:
        jobs = options.jobs or default_jobs(len(gpus()), options.gpus_per_run, cores())
        plan = _plan(todo, store, jobs, len(gpus()), options)
        timed = [(run, finished[run.hash]) for run in experiment.runs if run.hash in finished]
        expected = expected_seconds(plan.placed, timed)
        print_plan(runs, plan, expected, jobs)
        return 0
    if options.export:
        check_target(options.export)
    store.prepare()
    with speaking(options.verbosity):
        return _sweep(experiment, runs, todo, store, options)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    made = Parser(
        prog="ntdh-bench sweep",
        description="Run an experiment's whole grid. Runs that are complete are skipped: a sweep "
        "that was stopped or killed goes on with the same command.",
    )
    add = made.add_argument
    add("config", metavar="EXPERIMENT", help="a YAML file, or a name of `config list --sweeps`")
    add_verbosity(made)
    add("--protocol", metavar="NAME[,NAME]",
        help="training protocols; default: the experiment's choice, mostly its first")  # fmt: skip
    add("--only", action="append", default=[], metavar="AXIS=LABEL[,LABEL]",
        help="only these cells, as --dry-run names them; may be repeated")  # fmt: skip
    add("--data.root", dest="data_root", type=Path, metavar="FOLDER",
        help="data root; default: $NTDH_DATA or data")  # fmt: skip
    add("--rerun", action="store_true",
        help="do the selected runs although they are complete, and replace their records; teachers "
        "and controls still come from the cache (`ntdh-bench cache prune`)")  # fmt: skip
    other = made.add_mutually_exclusive_group().add_argument
    other("--dry-run", action="store_true", help="list the runs and estimate the time; run nothing")
    other("--export", type=Path, metavar="FILE",
        help="then write the records of the selected runs in --runs to one file, for a machine "
        "without this disk")  # fmt: skip
    other("--import", dest="import_from", type=Path, metavar="FILE",
        help="run nothing: take the experiment's records out of such a file; a run that has "
        "another record here keeps it, unless --rerun is given")  # fmt: skip
    _add_workers(add)
    add("--set", action="append", default=[], dest="settings", metavar="dotted.key=value",
        help="change every run's config (needs --name); may be repeated")  # fmt: skip
    add("--name", metavar="NEW", help="name of the records, if not the experiment's")
    add("--runs", type=Path, default=Path("runs/sweep"), metavar="DIR",
        help="records, logs and scratch; default: runs/sweep")  # fmt: skip
    add("--results", type=Path, default=Path("results"), metavar="DIR",
        help="where the CSV goes; default: results")  # fmt: skip
    return made


def _add_workers(add: Callable[..., Any]) -> None:
    """Add the options that say what does the runs, and how many at once."""
    add("--engine", choices=("local", "ray"), default="local",
        help="worker processes here (default), or Ray")  # fmt: skip
    add("--jobs", type=PositiveInt, metavar="N",
        help="runs at once; default: what the GPUs, or else the cores, hold")  # fmt: skip
    add("--gpus-per-run", type=PositiveFloat, default=1.0, metavar="F",
        help="share of a GPU that a run takes, where there are GPUs; default: 1")  # fmt: skip
    add("--address", metavar="ADDRESS",
        help="Ray cluster (auto: this machine's); default: a Ray of its own")  # fmt: skip
    add("--stack", type=_stacking, default="auto", metavar="auto|off|N",
        help="train runs of one kind as one: where it pays (default), never, or wherever it can be "
        "done, at most N at once")  # fmt: skip
    add("--timeout", type=PositiveFloat, metavar="SECONDS",
        help="kill a run after this long, a stack after as many times as it has runs")  # fmt: skip
    add("--retries", type=NonNegativeInt, default=0, metavar="N",
        help="repeat failed runs, alone; default: 0")  # fmt: skip


def _stacking(text: str) -> Stacking:
    if text in ("auto", "off"):
        return cast("Stacking", text)
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r}: give auto, off or a number from 2")
    return int(text)


# -- which runs ----------------------------------------------------------------------------------


def _experiment(options: argparse.Namespace) -> Experiment:
    if options.settings and not options.name:
        raise UserError(
            "--set needs --name: a changed experiment needs a name of its own, so that its records "
            "are not taken for the original's"
        )
    path = find_experiment(options.config)
    experiment = load_experiment(path, dict(map(parse_assignment, options.settings)))
    if experiment.missing:
        raise UserError(
            f"{experiment.name} needs the data set {experiment.requires}, which is not part of "
            "this version: `ntdh-bench data list` shows those that are"
        )
    shipped = shipped_experiments()
    if not options.name:
        _check_name(experiment, shipped.get(experiment.name))
        return experiment
    taken = {*shipped, experiment.name}
    if options.name in taken or not re.fullmatch(r"[\w.-]{1,80}", options.name):
        raise UserError(
            f"--name {options.name}: choose letters, digits, - and _, at most 80, and no "
            "experiment's name"
        )
    return replace(experiment, name=options.name)


def _check_name(experiment: Experiment, shipped: Path | None) -> None:
    """Refuse to mix the records of a user's experiment with those of a shipped one."""
    if shipped is not None and experiment.runs != load_experiment(shipped).runs:
        raise UserError(
            f"{experiment.path} has the name of {shipped}, but not its runs: rename the file, or "
            "give --name NEW"
        )


def _selected(experiment: Experiment, options: argparse.Namespace) -> list[Run]:
    """Return the runs of the protocols and the cells that were asked for."""
    wanted = options.protocol.split(",") if options.protocol else experiment.default
    if unknown := [name for name in wanted if name not in experiment.protocols]:
        raise UserError(
            f"{experiment.name} has no protocol {unknown[0]}: "
            f"{did_you_mean(unknown[0], experiment.protocols)}choose from "
            f"{', '.join(experiment.protocols)}"
        )
    runs = [run for run in experiment.runs if run.protocol in wanted]
    for text in options.only:
        runs = _only(runs, text)
    if not runs:
        raise UserError(f"{experiment.name}, protocol {', '.join(wanted)}: no run is selected")
    return runs


def _only(runs: Sequence[Run], text: str) -> list[Run]:
    axis, _, labels = text.partition("=")
    known = {_labels(run)[axis]: None for run in runs if axis in _labels(run)}
    if not known:
        axes = dict.fromkeys(name for run in runs for name in _labels(run))
        hint = did_you_mean(axis, axes)
        raise UserError(f"--only {text}: no axis {axis} here; {hint}there are {', '.join(axes)}")
    wanted = [labels] if labels in known else labels.split(",")  # [4, 4] is one label
    unknown = [label for label in wanted if label not in known]
    if unknown:
        raise UserError(
            f"--only {text}: {axis} has no {unknown[0]!r} here; "
            f"{did_you_mean(unknown[0], known)}there are {', '.join(known)}"
        )
    return [run for run in runs if _labels(run).get(axis) in wanted]


def _labels(run: Run) -> dict[str, str]:
    return {**run.labels, "seed": str(run.seed)}


def _plan(
    todo: Sequence[Run], store: Store, jobs: int, n_gpus: int, options: argparse.Namespace
) -> Plan:
    memory = stack_memory(jobs, n_gpus, options.gpus_per_run)
    machine = Machine(jobs, n_gpus > 0, memory)
    return make_plan(todo, options.stack, machine, store.unfinished_stacks())


# -- running them --------------------------------------------------------------------------------


def _sweep(
    experiment: Experiment,
    runs: Sequence[Run],
    todo: Sequence[Run],
    store: Store,
    options: argparse.Namespace,
) -> int:
    started = time.monotonic()
    if not is_quiet():
        print(f"{experiment.name}: {len(runs)} runs, {len(runs) - len(todo)} complete", flush=True)
    outcome = Outcome(left=len(todo))
    stopped: BaseException | None = None
    try:
        _drive(experiment, todo, store, options, outcome)
    except (KeyboardInterrupt, UserError) as error:
        stopped = error
    finally:
        collected = collect(experiment, store.root, options.results)
    _summarise(outcome, store, time.monotonic() - started)
    _print_collected(experiment, collected, options)
    missing = options.export and not print_export(runs, store, experiment.keep, options.export)
    if isinstance(stopped, UserError):
        raise stopped
    if stopped:
        what = "does all again" if options.rerun else "goes on where it stopped"
        print(f"interrupted; the same command {what}")
        return _INTERRUPTED
    return 1 if outcome.failures or missing else 0


def _import(experiment: Experiment, store: Store, options: argparse.Namespace) -> int:
    """Take records from a file; returns 1 if one was left out."""
    if options.only or options.protocol:
        raise UserError(
            "--import takes all runs of the experiment: leave --only and --protocol out"
        )
    store.prepare()
    found = import_records(options.import_from, experiment, store, options.results, options.rerun)
    print_import(experiment, found, options.import_from)
    _print_collected(experiment, collect(experiment, store.root, options.results), options)
    return 1 if found.problems else 0


def _print_collected(
    experiment: Experiment, collected: Collected, options: argparse.Namespace
) -> None:
    path = csv_path(options.results, experiment.name)
    print(f"records: {path}, {len(collected.rows)} of {len(experiment.runs)} runs")
    for problem in collected.problems:
        print(f"problem: {problem}")


def _drive(
    experiment: Experiment,
    todo: Sequence[Run],
    store: Store,
    options: argparse.Namespace,
    outcome: Outcome,
) -> None:
    """Do the runs; ``outcome`` says what was done, also where this ends early."""
    if not todo:
        return
    with closing(_engine(store, len(todo), options)) as engine:
        plan = _plan(todo, store, engine.jobs, engine.n_gpus, options)
        stacks = plan_summary(plan)
        if not is_quiet():
            print(f"{engine.jobs} at once, {engine.threads} thread(s) each{stacks}", flush=True)
        with Progress(len(todo), engine.jobs) as progress:
            Driver(
                plan.jobs,
                store,
                engine,
                timeout=options.timeout,
                retries=options.retries,
                keep=experiment.keep,
                report=progress.update,
                outcome=outcome,
                rerun=options.rerun,
            ).drive()


def _engine(store: Store, n_runs: int, options: argparse.Namespace) -> Engine:
    if options.engine == "local":
        if options.address:
            raise UserError("--address is for --engine ray")
        return LocalEngine(store, options.jobs, options.gpus_per_run, n_runs, FUNCTION)
    from ntdh_bench.sweep.ray_engine import RayEngine

    sizes = (options.jobs, options.gpus_per_run)
    return RayEngine(store, *sizes, options.address, n_runs, FUNCTION)


def _summarise(outcome: Outcome, store: Store, seconds: float) -> None:
    counts = [f"{outcome.done} done"]
    counts += [f"{outcome.elsewhere} done by another sweep"] if outcome.elsewhere else []
    counts += [f"{outcome.retried} repeated"] if outcome.retried else []
    counts += [f"{outcome.divided} stack(s) done again in parts"] if outcome.divided else []
    counts += [f"{outcome.failed} failed"]
    counts += [f"{outcome.left} left"] if outcome.left else []
    print(f"{', '.join(counts)}, in {duration(seconds)}")
    for path in outcome.damaged:
        print(f"damaged record, run again: {path}")
    for failure in outcome.failures:
        print(f"{failed(failure)}; log: {store.log(failure.run.hash)}")
