"""The scripts of docs/slurm, with commands that stand in for those of SLURM."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ntdh_bench.composition import shipped_configs

SCRIPTS = Path("docs/slurm").resolve()
STUBS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scontrol": 'echo "scontrol $*" >> "$LOG"',
    # Is stopped by SIGTERM after an epoch, and does the rest when it goes on.
    "ntdh-bench": """
echo "ntdh-bench $*" >> "$LOG"
[[ "$*" == *--ckpt_path* ]] && exit "${SECOND:-0}"
mkdir -p "${@: -1}/first/checkpoints" && touch "${@: -1}/first/checkpoints/last.ckpt"
exit 143
""",
}


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a job in ``tmp_path``."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in STUBS.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("true\n")
    return {
        "PATH": f"{commands}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"),
        "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1",
    }  # fmt: skip


def run(script: str, environment: dict[str, str]) -> tuple[int, list[str]]:
    """Run a script as a job; returns its status, and which commands it has run so far."""
    words = ["bash", str(SCRIPTS / script)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.returncode, Path(environment["LOG"]).read_text().splitlines()


@pytest.mark.parametrize("script", ["one_node.sh", "two_nodes.sh"])
def test_a_job_that_is_stopped_goes_on(script: str, cluster: dict[str, str]) -> None:
    runs = f"{cluster['SLURM_SUBMIT_DIR']}/runs/7"
    status, log = run(script, cluster)
    assert status == 143
    assert log[1:] == ["scontrol requeue 7"]
    assert log[0].startswith("ntdh-bench fit --config semantickitti_dkd --trainer.")
    assert log[0].endswith(f"--run_dir {runs}")
    assert "semantickitti_dkd" in shipped_configs()

    status, log = run(script, cluster)
    assert status == 0
    last = f"{runs}/first/checkpoints/last.ckpt"
    assert log[2:] == [f"ntdh-bench fit --ckpt_path {last} --run_dir {runs}"]


def test_a_job_that_fails_stays_failed(cluster: dict[str, str]) -> None:
    run("one_node.sh", cluster)
    status, log = run("one_node.sh", {**cluster, "SECOND": "1"})
    assert status == 1
    assert len(log) == 3


@pytest.mark.parametrize("script", ["one_node.sh", "two_nodes.sh"])
def test_tasks_are_as_many_as_devices(script: str) -> None:
    """What Lightning insists on."""
    lines = (SCRIPTS / script).read_text()
    asked = dict(word[2:].split("=") for word in lines.split() if word.startswith("--n"))
    assert f"--trainer.devices {asked['ntasks-per-node']}" in lines
    nodes = asked["nodes"]
    assert (f"--trainer.num_nodes {nodes}" in lines) == (nodes != "1")


def test_a_sweep_of_an_array(cluster: dict[str, str]) -> None:
    stub = Path(cluster["PATH"].split(":")[0]) / "ntdh-bench"
    stub.write_text('#!/bin/bash\necho "$PWD ntdh-bench $*" >> "$LOG"\n')
    status, log = run("sweep.sh", cluster)
    assert status == 0
    there = cluster["SLURM_SUBMIT_DIR"]
    assert log == [f"{there} ntdh-bench sweep table2 --jobs 1 --runs runs/sweep --results results"]
