from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback

from ntdh_bench.errors import UserError
from ntdh_bench.parsing.configs import _KEYS, with_absolute_paths
from ntdh_bench.parsing.parser import _PARSERS, BenchCLI, run_folder
from tests.helpers import flags

# Nine lists of nine aliases of the list before: 3.9e9 values in 400 characters.
BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)
)
QUICKSTART = Path("configs/quickstart.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model.distiller", "KDX"],
            r"model.distiller: unknown 'KDX': .*choose one of .*CRD.*KD,",
        ),
        (["--mask", "Feature"], "mask: unknown 'Feature': .*choose one of FeatureMask, SampleMask"),
        (["--data", "MNIST"], "data: unknown 'MNIST': choose one of .*MNISTPairDataModule"),
        (["--mask.removes", "most"], "mask.removes is 'most': choose one of 'most_divergent'"),
        (["--mask.ratio", "1.5"], r"mask.ratio is 1.5: it must lie in \[0, 1\]"),
        (["--mask.ratio", "x"], "mask.ratio: Expected a float. Got value: x"),
        (["--model.teacher", "both"], "model.teacher is 'both': choose one of 'joint'"),
        (["--trainer.epochs", "3"], "trainer.epochs"),
        (["--config", "configs/none.yaml"], "configs/none.yaml"),
        (["--model.student_network.hidden", "[-1]"], "negative"),
        (["--model.distiller.temperature", "0"], "distiller.temperature is 0.0: .* above 0"),
        (["--model.distiller.temperature", "-1"], "distiller.temperature is -1.0: .* above 0"),
        (["--model.distiller.temperature", ".nan"], "model.distiller.temperature is nan: .*finite"),
        (["--model.distiller.weight", ".inf"], "model.distiller.weight is inf: .*finite"),
        (["--model.distiller", "DKD", "--model.distiller.beta", "-1"], "distiller.beta is -1.0"),
        (["--model.distiller", "CRD", "--model.distiller.momentum", "2"], "distiller.momentum is"),
        (["--model.optimizer.lr", "-1"], "model.optimizer: Invalid learning rate: -1.0"),
        (["--model.optimizer.lr", ".nan"], "model.optimizer.lr is nan"),
        (["--model.optimizer.weight_decay", "-1"], "model.optimizer: Invalid weight_decay"),
        (["--model.task_weight", "-1"], "model.task_weight is -1.0: it must be at least 0"),
        (["--model.teacher_epochs", "0"], "model.teacher_epochs is 0: it must be at least 1"),
        (["--model.lam", "1.5"], r"model.lam is 1.5: it must lie in \[0, 1\]"),
        (["--trainer.gradient_clip_val", ".inf"], "trainer.gradient_clip_val is inf"),
        (["--data.teacher_noise", ".nan"], "data"),
    ],
)
def test_wrong_arguments_give_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        BenchCLI("fit", flags(QUICKSTART, tmp_path, *words))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--confg", "x"], "there is no flag --confg: did you mean '--config'?"),
        (
            ["--modle.distiller", "KD"],
            "there is no flag --modle.distiller: .* '--model.distiller'?",
        ),
        (["--trainer.max_epohs", "3"], "--trainer.max_epohs: did you mean '--trainer.max_epochs'?"),
        (
            ["--model.distller", "KD"],
            "DistillationModule has no argument 'distller': .*'distiller'",
        ),
        (["--model.distiller.temprature", "3"], "KD has no argument 'temprature': .*'temperature'"),
        (["--model.optimizer.lrr", "3"], "Adam has no argument 'lrr': did you mean 'lr'"),
        (["--data.batchsize", "3"], "SyntheticDataModule has no argument .*mean 'batch_size'"),
        (["--data.qqq", "3"], "SyntheticDataModule has no argument 'qqq': it takes gap, "),
        (["--mask.rato", "0.5"], "FeatureMask has no argument 'rato': did you mean 'ratio'"),
        (["--model.distiller", "dkd"], "unknown 'dkd': did you mean 'DKD'"),
        (["--model.student_network", "MLPClasifier"], "did you mean 'MLPClassifier'"),
        (["--model.optimizer", "Adm"], "did you mean 'Adam'"),
        (["--trainer.logger", "CSVLoger"], "did you mean 'CSVLogger'"),
        (["--trainer.callbacks+=EarlyStoping"], "did you mean 'EarlyStopping'"),
        (["--model.distiller.help", "DKDD"], "--model.distiller.help: unknown 'DKDD': .* 'DKD'"),
    ],
)
def test_misspelt_words_are_told_what_was_meant(
    words: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        BenchCLI("fit", flags(QUICKSTART, tmp_path, *words))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("modle: {}", "there is no modle; did you mean 'model'"),
        ("data: {clas_path: X}", "there is no data.clas_path; did you mean 'class_path'"),
        (
            "trainer: {max_epohs: 3}",
            "trainer has no setting 'max_epohs': did you mean 'max_epochs'",
        ),
        ("data: {init_args: {batchsize: 3}}", "no argument 'batchsize': did you mean 'batch_size'"),
    ],
)
def test_misspelt_keys_of_a_config_are_told_what_was_meant(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"base: quickstart\n{content}\n")
    with pytest.raises(UserError, match=message):
        BenchCLI("fit", ["--config", str(path)])


def test_a_config_may_hold_what_the_parser_takes() -> None:
    taken: set[str] = set()
    for command in ("fit", "predict"):
        with pytest.raises(SystemExit):
            BenchCLI(command, ["--help"])
        taken |= {action.dest.partition(".")[0] for action in _PARSERS[command]._actions}
    assert taken - {"help", "config", "print_config", "print_shtab"} == set(_KEYS)


@pytest.mark.parametrize(("flag", "lines"), [("--model.help=DistillationModule", 400)])
def test_help_pages_are_short(flag: str, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        BenchCLI("fit", [flag])
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < lines
    assert "ntdh_bench.models.MLPClassifier" in shown.replace("\n", "").replace(" ", "")
    assert "torch.nn.Linear" not in shown


def test_help_of_a_class_that_another_one_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        BenchCLI("fit", ["--model.distiller.help", "DKD"])
    assert end.value.code == 0
    assert "--model.distiller.beta BETA" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: [1,\n b: {", "not valid YAML"),
        ("", "holds no settings"),
        ("# a comment\n", "holds no settings"),
        ("seed_everything", "is text: give a mapping"),
        ("- model", "is a list: give a mapping"),
        ("trainer: /etc/hostname", "trainer is text: give a mapping"),
        ("model: !!python/object/apply:os.system [exit]", "a tag, which is not allowed"),
        ("model: !Net {}", "a tag, which is not allowed"),
        ("seed_everything: 1\nseed_everything: 2", "a key is given twice"),
        (BOMB, "more than 200000 values"),
    ],
)
def test_a_file_that_is_no_config(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=f"{path}.*{message}"):
        BenchCLI("fit", ["--config", str(path)])
    path.write_text(content, encoding="utf-16")
    with pytest.raises(UserError, match="not UTF-8"):
        BenchCLI("fit", [f"--config={path}"])


def test_a_mask_without_a_value_is_no_mask(tmp_path: Path) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_text("mask:\n")
    made = BenchCLI("fit", flags(QUICKSTART, tmp_path, "--config", str(path))).config_init
    assert made.mask is None


@pytest.mark.parametrize("value", ["./LICENSE", "configs/mnist_kd.yaml"])
def test_a_class_is_not_read_from_a_file(value: str, tmp_path: Path) -> None:
    """A config may not have any file shown in a message."""
    with pytest.raises(UserError, match=f"model.distiller: .*{value}") as error:
        BenchCLI("fit", flags(QUICKSTART, tmp_path, "--model.distiller", value))
    assert not any(word in str(error.value) for word in ("License", "Copyright", "seed_everything"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.seed", "7"], "--data.seed is 7, but the run's seed is 0"),
        (["--model.init_args.seed=9"], "--model.seed is 9, .* set --seed_everything"),
        (["--mask.seed", "1", "--seed_everything", "2"], "--mask.seed is 1, .* seed is 2"),
        (["--data", '{"init_args": {"seed": 3}}'], "--data.seed is 3"),
        (["--seed_everything", str(2**32)], r"it must lie in \[0, 4294967295\]"),
        (["--model.num_classes", "7"], "--model.num_classes is 7, but the data have 4 classes"),
        (["--seed_everything", "-1"], r"it must lie in \[0, 4294967295\]"),
    ],
)
def test_one_seed_is_that_of_all(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        BenchCLI("fit", flags(QUICKSTART, tmp_path, *words))


def test_a_config_may_repeat_its_seed(tmp_path: Path) -> None:
    path = tmp_path / "seed.yaml"
    path.write_text("seed_everything: 7\ndata: {init_args: {seed: 7}}\n")
    words = flags(QUICKSTART, tmp_path, "--config", str(path))
    assert BenchCLI("fit", words).config_init.data.seed == 7
    assert BenchCLI("fit", [*words, "--seed_everything", "8"]).config_init.data.seed == 8
    path.write_text("seed_everything: 8\ndata: {init_args: {seed: 7}}\n")
    with pytest.raises(UserError, match=r"seed.yaml: data.seed is 7, but the run's seed is 8"):
        BenchCLI("fit", flags(QUICKSTART, tmp_path, "--config", str(path)))


def test_the_seed_reaches_data_model_and_mask(tmp_path: Path) -> None:
    made = BenchCLI("fit", flags(QUICKSTART, tmp_path, "--seed_everything", "7")).config_init
    assert (made.model.seed, made.data.seed, made.mask.seed) == (7, 7, 7)


def test_paths_in_a_config_become_absolute() -> None:
    data = {"class_path": "D", "init_args": {"root": "here", "features": None, "gap": 0.5}}
    model = {"class_path": "M", "init_args": {"pretrained": "w.pt", "teacher_checkpoint": "~/t"}}
    found = with_absolute_paths({"data": data, "model": model, "mask": None, "run_dir": "runs"})
    assert found["data"]["init_args"] == {**data["init_args"], "root": str(Path("here").absolute())}
    # what a network is made of is part of what a run is
    assert found["model"]["init_args"]["pretrained"] == "w.pt"
    assert found["model"]["init_args"]["teacher_checkpoint"] == str(Path.home() / "t")


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_checkpoint_needs_its_run(command: str, tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    with pytest.raises(UserError, match="no checkpoint"):
        BenchCLI(command, ["--ckpt_path", str(path)])
    path.touch()
    assert run_folder(path) == tmp_path / "run"
    with pytest.raises(UserError, match="not in the folder of its run"):
        BenchCLI(command, [f"--ckpt_path={path}"])


def test_an_error_of_a_class_is_shown(tmp_path: Path) -> None:
    callback = {"class_path": f"{__name__}.Fussy", "init_args": {"number": "x"}}
    path = tmp_path / "overlay.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    with pytest.raises(UserError, match=r"invalid literal for int\(\) with base 10: 'x'"):
        BenchCLI("fit", flags(QUICKSTART, tmp_path, "--config", str(path)))


class Fussy(Callback):
    """Takes text, and means a number."""

    def __init__(self, number: str) -> None:
        self.number = int(number)
