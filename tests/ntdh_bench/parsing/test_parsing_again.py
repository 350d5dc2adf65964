"""Many configs in one process: each is parsed as if it were the only one."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from ntdh_bench.composition import Config, find_config, read_config
from ntdh_bench.errors import UserError
from ntdh_bench.experiments import load_experiment
from ntdh_bench.parsing import parser
from ntdh_bench.parsing.parser import BenchCLI

Said = tuple[Any, ...] | str


class Parses(BenchCLI):
    """Makes none of the objects: some networks are large."""

    def instantiate_classes(self) -> None: ...


def forget() -> None:
    parser._PARSERS.clear()
    parser._parse_once.cache_clear()


def said(config: Config, words: Sequence[str] = ()) -> Said:
    try:
        cli = Parses("fit", words, deepcopy(config))
    except UserError as error:
        return str(error)
    return repr(cli.config), cli.plain, cli.config_dump, cli.code, list(cli.plain)


def alone(config: Config) -> Said:
    """What a process says of a config that it parses first, with the seed that it gives itself."""
    forget()
    seed = config.get("seed_everything", 0)
    found = said(config, ["--seed_everything", str(seed)] if type(seed) is int else ())
    forget()
    return found


def check_dumped(config: Config) -> None:
    """Compare with what the parser itself dumps of a config that it was given with its seed."""
    words = ["--seed_everything", str(config.get("seed_everything", 0))]
    cli, again = (Parses("fit", given, deepcopy(config)) for given in (words, ()))
    for skip, dumped in ((True, "plain"), (False, "config_dump")):
        text = cli.parser.dump(cli.config, format="yaml", skip_none=False, skip_link_targets=skip)
        assert yaml.safe_load(text) == getattr(cli, dumped) == getattr(again, dumped)


def check_all(configs: Sequence[Config]) -> None:
    expected = [alone(config) for config in configs]
    order = [*range(len(configs)), *random.Random(0).sample(range(len(configs)), len(configs))]
    for number in order:
        assert said(configs[number]) == expected[number]


def changed(config: Config, **parts: dict[str, Any]) -> Config:
    """Return a copy with other settings: of parts their arguments, of the Trainer its own."""
    copy = deepcopy(config)
    for name, settings in parts.items():
        (copy[name] if name == "trainer" else copy[name]["init_args"]).update(settings)
    return copy


def test_nothing_is_left_of_what_was_parsed_before() -> None:
    """Seeds, arguments, classes, wrong settings: A, B, A."""
    quick, mnist = (read_config(find_config(name)) for name in ("quickstart", "mnist_crd"))
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.5}}
    check_all([
        quick,
        {**quick, "seed_everything": 3},
        {**quick, "seed_everything": 2**40},
        {**quick, "seed_everything": True},
        {**quick, "mask": None},
        {**quick, "nothing": 1},
        changed(quick, mask={"seed": 1}),
        changed({**quick, "seed_everything": 1}, mask={"seed": 1}),
        changed(quick, model={"distiller": "DKD", "optimizer": optimizer}),
        changed(quick, model={"lam": "much"}),
        changed(quick, trainer={"max_epochs": 7, "callbacks": ["Nope"]}),
        mnist,
        {**mnist, "seed_everything": 4},
    ])  # fmt: skip


@pytest.mark.parametrize("name", ["mnist_crd", "nyuv2_ssc_kd"])
def test_the_config_is_what_the_parser_dumps(name: str) -> None:
    check_dumped({**read_config(find_config(name)), "seed_everything": 5})


@pytest.mark.slow
def test_all_configs_are_parsed_as_alone() -> None:
    configs = [read_config(path) for path in sorted(Path("configs").glob("*.yaml"))]
    check_all(configs)
    for config in configs:
        check_dumped(config)


@pytest.mark.slow
def test_runs_of_experiments_are_parsed_as_alone() -> None:
    stream = random.Random(0)
    configs = []
    for path in sorted(Path("configs/sweeps").glob("*.yaml")):
        runs = load_experiment(path).runs
        start = stream.randrange(max(1, len(runs) - 6))
        found = [*runs[start : start + 6], *stream.sample(runs, min(3, len(runs)))]
        configs += [run.config for run in found if "command" not in run.config]
    assert len(configs) > 250
    check_all(configs)


def test_code_that_was_edited_is_parsed_anew(write_module: Callable[[str, str], Path]) -> None:
    text = "from ntdh_bench.distillers import KD\n\n\nclass Own(KD):\n    "
    text += "def __init__(self, weight: float = {}):\n        super().__init__(weight=weight)\n"
    write_module("own_objective.py", text.format(0.25))
    config = changed(
        read_config(find_config("quickstart")), model={"distiller": "own_objective.Own"}
    )
    weights = []
    for weight in (0.25, 0.75):
        write_module("own_objective.py", text.format(weight))
        plain = Parses("fit", (), config).plain
        weights.append(plain["model"]["init_args"]["distiller"]["init_args"]["weight"])
    assert weights == [0.25, 0.75]


def test_no_run_is_kept_by_the_parser_of_the_next() -> None:
    cli = BenchCLI("fit", (), read_config(find_config("quickstart")))
    model = weakref.ref(cli.model)
    assert model() is not None
    del cli
    gc.collect()
    assert model() is None


def test_what_one_run_changes_in_its_config_is_its_own() -> None:
    config = read_config(find_config("quickstart"))
    first = Parses("fit", (), config)
    first.plain["model"]["init_args"]["distiller"] = first.config_dump["trainer"] = None
    first.config.trainer.max_epochs = 999
    second = Parses("fit", (), config)
    assert second.plain["model"]["init_args"]["distiller"] is not None
    assert second.config_dump["trainer"] is not None
    assert second.config.trainer.max_epochs != 999
