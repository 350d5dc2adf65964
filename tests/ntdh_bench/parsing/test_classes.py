from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from torch import nn
from torch.optim import SGD, Optimizer

from ntdh_bench.cli import main
from ntdh_bench.errors import UserError
from ntdh_bench.experiments import load_experiment
from ntdh_bench.models.base import build_network
from ntdh_bench.parsing.parser import BenchCLI
from tests.helpers import flags

QUICKSTART = Path("configs/quickstart.yaml")


TOUCH = {"class_path": "os.system", "init_args": {"command": "touch {trap}"}}
TOUCH_AGAIN = {"class_path": "subprocess.getoutput", "init_args": {"cmd": "touch {trap}"}}


# Annotated to return a network, and runs what its argument says.
CODE = {
    "class_path": "torch.fx.graph_module.reduce_graph_module",
    "init_args": {"import_block": "", "body": {"_code": "open('{trap}', 'w')\n"}},
}


class Anything(Callback):
    """Takes what its arguments do not say."""

    def __init__(self, what: Any = None, hook: Callable | None = None) -> None:  # type: ignore[type-arg]
        self.what, self.hook = what, hook


class Names(Callback):
    """Takes a callable that names what it returns."""

    def __init__(self, rate: Callable[[int], float], network: Callable[[], nn.Module]) -> None:
        self.rate, self.network = rate, network


def halved(epoch: int) -> float:
    return 0.5**epoch


def unannotated(epoch):  # type: ignore[no-untyped-def]
    return 1.0


def make_network() -> nn.Linear:
    return nn.Linear(50, 4)


def made_wide(width: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(50, width), activation, nn.Linear(width, 4))


def make_optimizer(params: Any) -> Optimizer:
    return SGD(params, 0.1)


def in_model(name: str, value: Any) -> dict[str, Any]:
    return {"model": {"init_args": {name: value}}}


def callback(name: str, **init_args: Any) -> dict[str, Any]:
    path = f"{__name__}.{name}"
    return {"trainer": {"callbacks": [{"class_path": path, "init_args": init_args}]}}


EVIL = {
    "an optimiser": in_model("optimizer", TOUCH),
    "a schedule": in_model("scheduler", TOUCH),
    "a network": in_model("student_network", TOUCH_AGAIN),
    "code as text": in_model("student_network", CODE),
    "code as text, by a callback": callback("Names", rate=f"{__name__}.halved", network=CODE),
    "a distiller": in_model("distiller", TOUCH),
    "a term": in_model(
        "distiller", {"class_path": "Combined", "init_args": {"distillers": [TOUCH]}}
    ),
    "the model": {"model": TOUCH},
    "the data": {"data": TOUCH},
    "a mask": {"mask": TOUCH},
    "a callback": {"trainer": {"callbacks": [TOUCH]}},
    "a logger": {"trainer": {"logger": TOUCH}},
    "a plug-in": {"trainer": {"plugins": [TOUCH_AGAIN]}},
    "a strategy": {"trainer": {"strategy": TOUCH}},
    "a profiler": {"trainer": {"profiler": TOUCH}},
    "anything": callback("Anything", what=TOUCH),
    "a list of anything": callback("Anything", what=[{"deep": TOUCH}]),
    "a hook": callback("Anything", hook=TOUCH),
    "a hook by its name": callback("Anything", hook="os.getcwd"),
    "a function": callback("Names", rate="os._exit", network="torch.nn.Identity"),
    "a number": callback("Names", rate=TOUCH, network="torch.nn.Identity"),
    "a silent function": callback(
        "Names", rate=f"{__name__}.unannotated", network="torch.nn.Identity"
    ),
    "a part of a network": callback(
        "Names",
        rate=f"{__name__}.halved",
        network={
            "class_path": "torch.nn.TransformerEncoder",
            "init_args": {"encoder_layer": TOUCH, "num_layers": 1},
        },
    ),
}


def overlay(folder: Path, settings: dict[str, Any], trap: Path) -> list[str]:
    path = folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(settings).replace("{trap}", str(trap)))
    return ["--config", str(path)]


@pytest.mark.parametrize("settings", EVIL.values(), ids=EVIL)
def test_a_config_runs_nothing_that_its_arguments_do_not_expect(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    trap = tmp_path / "executed"
    with pytest.raises(UserError) as error:
        BenchCLI("fit", flags(QUICKSTART, tmp_path, *overlay(tmp_path, settings, trap)))
    assert not trap.exists()
    assert "\n" not in str(error.value)
    assert len(list(tmp_path.iterdir())) == 1  # no run folder


@pytest.mark.parametrize(
    "settings",
    [
        in_model("optimizer", f"{__name__}.make_optimizer"),
        callback("Names", rate=f"{__name__}.halved", network=f"{__name__}.make_network"),
        callback("Names", rate=f"{__name__}.halved", network="torchvision.models.resnet18"),
        callback("Anything", what={"deep": ["os.system", 1]}),
        {
            "trainer": {
                "callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitor": "a"}}]
            }
        },
    ],
)
def test_what_arguments_expect_is_taken(settings: dict[str, Any], tmp_path: Path) -> None:
    words = flags(QUICKSTART, tmp_path, *overlay(tmp_path, settings, tmp_path))
    parsed(words)


WIDE = {
    "class_path": f"{__name__}.made_wide",
    "init_args": {"width": 5, "activation": {"class_path": "torch.nn.Tanh"}},
}


def test_a_function_makes_networks_when_it_is_their_turn(tmp_path: Path) -> None:
    settings = in_model("teacher_network", WIDE)
    cli = BenchCLI("fit", flags(QUICKSTART, tmp_path, *overlay(tmp_path, settings, tmp_path)))
    first, second = (build_network(cli.model.teacher_network, 3, "teacher") for _ in range(2))
    assert first is not second
    assert [type(layer) for layer in first] == [nn.Linear, nn.Tanh, nn.Linear]
    assert torch.equal(first[0].weight, second[0].weight)  # the seed's
    assert cli.plain["model"]["init_args"]["teacher_network"] == WIDE


def test_a_flag_of_a_function_says_where_it_goes(tmp_path: Path) -> None:
    settings = in_model("teacher_network", WIDE)
    words = flags(QUICKSTART, tmp_path, *overlay(tmp_path, settings, tmp_path))
    with pytest.raises(UserError, match="give it in a config"):
        BenchCLI("fit", [*words, "--model.teacher_network.init_args.width", "7"])


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_measuring_a_checkpoint_imports_no_more_than_it_needs(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of the run's folder the network and the data are taken, not what would train it."""
    assert main(["fit", *flags(QUICKSTART, tmp_path, "--trainer.max_epochs", "1")]) == 0
    (config,) = tmp_path.rglob("config.yaml")
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    settings = yaml.safe_load(config.read_text())
    evil = {"class_path": "trap.Net", "init_args": {}}
    settings["model"]["init_args"] |= {"optimizer": evil, "scheduler": evil}
    settings["trainer"] |= {"callbacks": [evil], "logger": "trap.Net", "plugins": [evil]}
    settings["trainer"] |= {"profiler": "trap.Net", "strategy": "trap.Net"}
    config.write_text(yaml.safe_dump(settings))
    capsys.readouterr()
    path = config.parent / "checkpoints" / "last.ckpt"
    assert main([command, "--ckpt_path", str(path)]) == 0
    assert "SIMULATED" in capsys.readouterr().out
    assert not (tmp_path / "executed").exists()


class Share(Callback):
    """Takes a number of batches, or a share of them."""

    def __init__(self, batches: float | int) -> None: ...


@pytest.mark.parametrize("written", [1, 1.0, 0.5, 0])
def test_a_number_stays_what_it_was_written_as(written: float, tmp_path: Path) -> None:
    """Whichever type the annotation names first: 1 is one batch, 1.0 all of them."""
    words = overlay(tmp_path, callback("Share", batches=written), tmp_path)
    (found,) = parsed(flags(QUICKSTART, tmp_path, *words))["trainer"]["callbacks"]
    assert type(found["init_args"]["batches"]) is type(written)
    assert found["init_args"]["batches"] == written


# -- another class, other arguments --------------------------------------------------------------


class Parsed(BenchCLI):
    """Parses, makes nothing."""

    def instantiate_classes(self) -> None:
        """Make nothing."""


def parsed(words: Any) -> dict[str, Any]:
    return Parsed("fit", list(words)).plain


def short(spec: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return spec["class_path"].rpartition(".")[2], spec["init_args"]


@pytest.mark.parametrize(
    "words",
    [
        ["--model.distiller", "CRD"],
        ["--model.distiller=CRD"],
        ["--model.distiller", "ntdh_bench.distillers.CRD"],
        ["--model.distiller.class_path", "CRD"],
        ["--model.init_args.distiller", "ntdh_bench.distillers.crd.CRD"],
        ["--model.distiller", '{"class_path": "CRD"}'],
    ],
)
def test_arguments_go_with_their_class(words: list[str]) -> None:
    more = ["--model.distiller.layer", "hidden2"]
    model = parsed(["--config", "configs/mnist_kd.yaml", *words, *more])["model"]["init_args"]
    name, arguments = short(model["distiller"])
    assert (name, arguments["temperature"], arguments["layer"]) == ("CRD", 0.07, "hidden2")


@pytest.mark.parametrize(
    ("config", "method", "expected"),
    [
        ("quickstart", "DKD", {"temperature": 4.0}),
        ("mnist_dkd", "WeightedKL", {"beta": 1.0}),
        ("mnist_sp", "PKT", {"weight": 30000.0}),
        ("mnist_kd", "KD", {"temperature": 4.0}),
        ("quickstart", "ntdh_bench.distillers.kd.KD", {"temperature": 1.0}),
    ],
)
def test_fit_and_sweep_agree(
    config: str, method: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "method.yaml").write_text(
        yaml.safe_dump(in_model("distiller", {"class_path": method}))
    )
    base = Path(f"configs/{config}.yaml").resolve()
    sweep = {
        "title": "t", "requires": "mnist", "base": str(base), "protocols": {"p": {}},
        "grids": [
            {"axes": {"how": {
                "file": {"config": "method.yaml"},
                "name": {"model.init_args.distiller": method},
                "path": {"model.init_args.distiller.class_path": method},
            }}}
        ],
    }  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    ways: list[list[str]] = [
        ["--config", str(base), "--model.distiller", method],
        ["--config", str(base), "--model.distiller.class_path", method],
        ["--config", str(base), "--config", str(tmp_path / "method.yaml")],
    ]
    for number, run in enumerate(load_experiment(tmp_path / "sweep.yaml").runs):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(run.config))
        ways.append(["--config", str(path)])
    distillers = [short(parsed(words)["model"]["init_args"]["distiller"]) for words in ways]
    assert all(distiller == distillers[0] for distiller in distillers)
    assert expected.items() <= distillers[0][1].items()


def test_a_flag_that_names_another_module_of_a_pair_keeps_its_networks() -> None:
    words = ["--config", str(QUICKSTART), "--model", "MutualModule", "--model.temperature", "2"]
    before, now = (parsed(w)["model"]["init_args"] for w in (words[:2], words))
    for name in ("teacher_network", "student_network", "optimizer"):
        assert now[name] == before[name]
    assert now["temperature"] == 2
    assert not {"distiller", "task_weight"} & now.keys()


def test_every_argument_that_takes_a_class_forgets_the_former_one(tmp_path: Path) -> None:
    first = [
        "--config", str(QUICKSTART), "--model.scheduler", "torch.optim.lr_scheduler.StepLR",
        "--model.scheduler.step_size", "3", "--model.scheduler.gamma", "0.5",
        "--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "a",
        "--trainer.callbacks.verbose", "true",
    ]  # fmt: skip
    then = [
        "--model.optimizer", "AdamW", "--model.scheduler", "torch.optim.lr_scheduler.ExponentialLR",
        "--model.scheduler.gamma", "0.9", "--mask", "SampleMask", "--mask.ratio", "0.5",
    ]  # fmt: skip
    settings = parsed([*first, *then])
    model = settings["model"]["init_args"]
    adamw = torch.optim.AdamW([nn.Parameter(torch.zeros(1))]).defaults
    assert adamw["weight_decay"] == 0.01  # not 0, which SGD has, the default optimiser
    optimizer = model["optimizer"]["init_args"]
    assert {name: optimizer[name] for name in ("lr", "weight_decay")}.items() <= adamw.items()
    assert model["scheduler"]["init_args"] == {"gamma": 0.9, "last_epoch": -1}
    assert settings["mask"]["init_args"] == {
        "ratio": 0.5, "removes": "most_divergent", "score": "ncjsd", "threshold": None,
    }  # fmt: skip
    assert parsed([*first, "--mask", "SampleMask"])["mask"]["init_args"]["ratio"] is None
