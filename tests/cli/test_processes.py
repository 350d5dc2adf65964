"""Commands as users start them: one process each (about ten seconds of imports)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers import record_of

COMMAND = [sys.executable, "-m", "ntdh_bench"]
SHORT = [
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
    "--data.steps_per_epoch", "5", "--mask.permutations", "1", "--model.teacher_epochs", "1",
]  # fmt: skip


def run(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stderr
    return done


def test_fit_then_test(tmp_path: Path) -> None:
    fit = ["fit", "--config", "configs/quickstart.yaml", "--run_dir", str(tmp_path), *SHORT]
    shown = run(*fit, "--trainer.max_epochs", "1")
    assert "SIMULATED" in shown.stdout
    (last,) = tmp_path.glob("*/checkpoints/last.ckpt")
    assert "student" in run("test", "--ckpt_path", str(last)).stdout


def test_an_error_is_one_line_and_a_status() -> None:
    words = ("fit", "--config", "configs/mnist_kd.yaml", "--data.root", "/nonexistent")
    done = run(*words, status=1)
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ntdh-bench: error")]
    assert "/nonexistent" in line
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_enough_is_no_error() -> None:
    """As in `ntdh-bench config list | head -1`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "ntdh_bench", "config", "list"], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_what_runs_no_model_starts_without_torch() -> None:
    for words in (
        ["--help"],
        ["data", "list"],
        ["cache", "list"],
        ["config", "show", "quickstart"],
    ):
        # The catalogue has the readers of the paired sets, and they have NumPy.
        unwanted = {"torch", "lightning", "scipy", *([] if words[0] == "data" else ["numpy"])}
        code = (
            "import sys; from ntdh_bench.cli import main\n"
            f"status = main({words}); assert status == 0\n"
            f"assert not {unwanted} & sys.modules.keys()"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """kill -9 during a 10-epoch run; going on from last.ckpt gives the same bits."""

    def words(name: str) -> list[str]:
        return [
            *COMMAND, "fit", "--config", "configs/quickstart.yaml", "--run_dir",
            str(tmp_path / name), *SHORT, "--trainer.max_epochs", "10",
            "--data.steps_per_epoch", "60",
        ]  # fmt: skip

    subprocess.run(words("whole"), check=True, capture_output=True, timeout=300)
    process = subprocess.Popen(words("killed"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        found = list((tmp_path / "killed").glob("*/checkpoints/best-epoch=*.ckpt"))
        last = list((tmp_path / "killed").glob("*/checkpoints/last.ckpt"))
        if found and last:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    (last_path,) = (tmp_path / "killed").glob("*/checkpoints/last.ckpt")
    assert torch.load(last_path, weights_only=True)["epoch"] < 9, "too fast to be killed halfway"
    resume = [*words("resumed"), "--ckpt_path", str(last_path)]
    subprocess.run(resume, check=True, capture_output=True, timeout=300)

    def result(name: str) -> tuple[dict[str, torch.Tensor], object]:
        (folder,) = (tmp_path / name).iterdir()
        content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        return content["state_dict"], record_of(folder)["metrics"]

    (left, one), (right, two) = result("whole"), result("resumed")
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert one == two


def test_two_processes_on_the_cpu(tmp_path: Path) -> None:
    """DDP: runs, reports once, keeps the teacher, and tests like a single process."""
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    fit = [
        *COMMAND, "fit", "--config", "configs/quickstart.yaml", "--run_dir", str(tmp_path), *SHORT,
        "--trainer.max_epochs", "1", "--trainer.devices", "2", "--trainer.strategy", "ddp",
        "--data.n_samples", "503",
    ]  # fmt: skip
    done = subprocess.run(fit, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("student with KD, last epoch") == 1
    (folder,) = tmp_path.iterdir()
    recorded = record_of(folder)

    last = str(folder / "checkpoints" / "last.ckpt")
    single = ["--trainer.devices", "1", "--trainer.strategy", "auto"]
    shown = {name: run("test", "--ckpt_path", last, *more).stdout
             for name, more in (("two", []), ("one", single))}  # fmt: skip
    assert shown["one"] == shown["two"]
    metrics = recorded["metrics"]["last"]["test"]
    assert f"{100 * metrics['accuracy']:.2f}" in shown["one"]
    assert f"{metrics['ncjsd']:.4f}" in shown["one"]

    from ntdh_bench.checkpoints import state_hash
    from ntdh_bench.models import MLPClassifier

    state = torch.load(folder / "teacher.ckpt", weights_only=True)["state_dict"]
    networks = {}
    for name in ("teacher", "companion"):
        networks[name] = MLPClassifier(50, [16, 16], 4, "relu")
        own = {key.removeprefix(f"{name}."): x for key, x in state.items() if key.startswith(name)}
        networks[name].load_state_dict(own)
    assert state_hash(networks) == recorded["teacher_hash"]


@pytest.mark.slow
def test_weights_in_parts_train_and_measure_as_whole_ones(tmp_path: Path) -> None:
    """FSDP of a dense network on two processes, its teacher too, against DDP."""
    sharded = tmp_path / "fsdp.yaml"
    sharded.write_text("trainer:\n  strategy: {class_path: tests.fsdp.FSDPOnCPU}\n")
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    records, states = [], []
    for name, how in {
        "fsdp": ["--config", str(sharded)], "ddp": ["--trainer.strategy", "ddp", "--no-cache"],
    }.items():  # fmt: skip
        words = [
            *COMMAND, "fit", "--config", "nyuv2_seg_dkd", "--run_dir", str(tmp_path / name),
            "--data.source", "simulated", "--data.simulated_rooms", "8", "--data.scale", "0.25",
            "--data.batch_size", "1", "--trainer.max_epochs", "1", "--trainer.devices", "2",
            "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
            "--trainer.logger", "false", *how,
        ]  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True, timeout=900, env=environment)
        assert done.returncode == 0, done.stderr
        (folder,) = (tmp_path / name).iterdir()
        records.append(record_of(folder))
        files = folder / "teacher.ckpt", folder / "checkpoints" / "last.ckpt"
        states.append([torch.load(file, weights_only=True)["state_dict"] for file in files])
    assert records[0]["teacher"] == records[1]["teacher"] == "trained"
    for ours, whole in zip(*states, strict=True):
        assert ours.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)
    one, two = (record["metrics"]["last"]["test"] for record in records)
    assert one == pytest.approx(two, rel=1e-2, abs=1e-3)


@pytest.mark.slow
def test_processes_of_another_launcher_share_a_folder(tmp_path: Path) -> None:
    """As torchrun or a cluster starts them: by variables, each for itself."""
    words = [
        *COMMAND, "fit", "--config", "quickstart", "--run_dir", str(tmp_path), *SHORT,
        "--trainer.max_epochs", "1", "--trainer.devices", "2", "--trainer.strategy", "ddp",
    ]  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0"}
    started = [
        subprocess.Popen(words, env={**os.environ, **common, "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    (folder,) = tmp_path.iterdir()
    assert (folder / "record.json").is_file()
