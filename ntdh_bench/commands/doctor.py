"""``ntdh-bench doctor``: what a run needs, and what of it is here.

It takes a second, without torch. What only an import shows (a torch and a torchvision that do not
go together, a driver that is too old) is tried in a process of its own, where there is a GPU or
``--imports`` asks for it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from packaging.requirements import Requirement

from ntdh_bench import __version__
from ntdh_bench.cache import default_cache_dir
from ntdh_bench.commands.arguments import Parser
from ntdh_bench.commands.cache import size_words, total
from ntdh_bench.composition import shipped_configs
from ntdh_bench.datasets import catalogue, data_root, state_of
from ntdh_bench.errors import one_line
from ntdh_bench.plugins import registered
from ntdh_bench.provenance import own_commit
from ntdh_bench.sweep.engine import cores, gpus

State: TypeAlias = Literal["ok", "note", "broken"]
_SHOWN = ("torch", "lightning", "torchvision", "torchaudio", "numpy")
_LEAST_SPACE = 2e9  # bytes: a run of the large networks with its checkpoints, teachers cached
_GROUPS = ("ntdh_bench.plugins", "ntdh_bench.datasets", "ntdh_bench.papers", "ntdh_bench.studies")
_VARIABLES = ("NTDH_DATA", "NTDH_CACHE", "NTDH_RUN", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_PROBE = """
import json, torch, torchaudio, torchvision, lightning
import ntdh_bench.runs
from ntdh_bench.plugins import load, registered
for group in {groups}:
    for entry in registered(group).values():
        load(entry)
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
found = []
for number in range(torch.cuda.device_count()):
    here = torch.device("cuda", number)
    assert float(torch.ones(2, 2, device=here).matmul(torch.ones(2, 2, device=here)).sum()) == 8
    properties = torch.cuda.get_device_properties(number)
    found.append([properties.name, properties.total_memory])
print(json.dumps({{"cuda": torch.version.cuda, "gpus": found, "bf16": bool(found) and
    torch.cuda.is_bf16_supported()}}))
"""


class Finding(NamedTuple):
    """What was found of one thing: ``broken`` is what a run cannot do with."""

    what: str
    state: State
    text: str


def main(argv: Sequence[str]) -> int:
    """Run ``ntdh-bench doctor``; returns 1 if something that a run needs is broken, else 0."""
    options = parser().parse_args(argv[1:])
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _program, _packages, lambda: _devices(options.imports), _plugins,
        lambda: _data(data_root(options.root)), _folders, _variables,
    )  # fmt: skip
    findings = [finding for check in checks for finding in check()]
    width = max(len(finding.what) for finding in findings)
    for what, state, text in findings:
        print(f"{state:<6}  {what:<{width}}  {one_line(text)}")
    broken = [finding.what for finding in findings if finding.state == "broken"]
    print(f"\nbroken: {', '.join(broken)}" if broken else "\nnothing that a run needs is missing")
    return 1 if broken else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    made = Parser(
        prog="ntdh-bench doctor",
        description="Say what is installed and found here. Exit status 1 if something that a run "
        "needs is broken; a note is what only some runs need.",
    )
    made.add_argument(
        "--imports", action="store_true",
        help="import torch and all plug-ins and compute on every GPU, which takes some seconds; "
        "done anyway where there is a GPU",
    )  # fmt: skip
    made.add_argument(
        "--root", type=Path, metavar="FOLDER", help="data root; default: $NTDH_DATA or data"
    )
    return made


# -- what is installed ---------------------------------------------------------------------------


def _program() -> Iterator[Finding]:
    commit = own_commit()
    built = f", commit {commit}" if commit else ""
    yield Finding("ntdh-bench", "ok", f"{__version__}{built}, in {Path(__file__).parents[1]}")
    yield Finding("python", "ok", f"{platform.python_version()}, {platform.platform()}")
    configs = len(shipped_configs())
    found = f"{configs} come with the package"
    yield Finding("configs", "ok" if configs else "broken", found if configs else "none: reinstall")


def _packages() -> Iterator[Finding]:
    """Compare what is installed with what the package says it needs."""
    try:
        wanted = [Requirement(text) for text in requires("ntdh-bench") or ()]
    except PackageNotFoundError:
        yield Finding("packages", "note", "ntdh-bench is not installed: its needs are not known")
        return
    wrong = 0
    shown = []
    for need in wanted:
        extra = need.marker is not None and "extra" in str(need.marker)
        if need.marker is not None and not extra and not need.marker.evaluate():
            continue
        if (text := _lacks(need)) is None:
            shown += [f"{need.name} {version(need.name)}"] if need.name in _SHOWN else []
        elif not extra:
            wrong += 1
            yield Finding(need.name, "broken", text)
        elif need.name == "ray":
            yield Finding(need.name, "note", f"{text}: only `sweep --engine ray` needs it")
    yield Finding("packages", "ok", f"{', '.join(shown)}{'' if wrong else ' and all others'}")


def _lacks(need: Requirement) -> str | None:
    try:
        found = distribution(need.name).version
    except PackageNotFoundError:
        return f"not installed, {need.name}{need.specifier} is needed"
    fits = need.specifier.contains(found, prereleases=True)
    return None if fits else f"{found} is installed, {need.specifier} is needed"


def _plugins() -> Iterator[Finding]:
    others = {
        f"{name} ({entry.dist.name} {entry.dist.version})"
        for group in _GROUPS
        for name, entry in registered(group).items()
        if entry.dist is not None and entry.dist.name != "ntdh-bench"
    }
    yield Finding("plug-ins", "ok", ", ".join(sorted(others)) or "none beside the package's own")


# -- the machine ---------------------------------------------------------------------------------


def _devices(imports: bool) -> Iterator[Finding]:
    yield Finding("cpu", "ok", f"{cores()} cores for a run")
    there = gpus()
    if not there and not imports:
        yield Finding("gpu", "ok", "none: runs use the CPU")
        return
    command = [sys.executable, "-c", _PROBE.format(groups=_GROUPS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=600, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        yield Finding("imports", "broken", "torch and the plug-ins are not imported in 10 minutes")
        return
    if done.returncode:
        last = done.stderr.strip().splitlines() or [f"ends with status {done.returncode}"]
        yield Finding("imports", "broken", f"torch, torchvision or a plug-in: {last[-1]}")
        return
    yield Finding("imports", "ok", "torch, torchvision, torchaudio, lightning and all plug-ins")
    yield from _seen(json.loads(done.stdout.splitlines()[-1]), there)


def _seen(found: dict[str, object], there: Sequence[str]) -> Iterator[Finding]:
    """Compare the GPUs that torch sees with those that the machine has."""
    seen = found["gpus"]
    assert isinstance(seen, list)
    for name, memory in seen:
        precision = "bf16" if found["bf16"] else "no bf16"
        yield Finding(
            "gpu", "ok", f"{name}, {size_words(memory)}, CUDA {found['cuda']}, {precision}"
        )
    if len(seen) < len(there):
        built = f"CUDA {found['cuda']}" if found["cuda"] else "no CUDA"
        text = f"{len(there)} here, torch sees {len(seen)} (built for {built}): see the driver"
        yield Finding("gpu", "broken", f"{text}, or set CUDA_VISIBLE_DEVICES to use none")
    elif not there:
        yield Finding("gpu", "ok", "none: runs use the CPU")


# -- files ---------------------------------------------------------------------------------------


def _data(root: Path) -> Iterator[Finding]:
    where = root.absolute()
    try:
        yield Finding("data root", "ok", f"{where}{'' if root.is_dir() else ' (not there)'}")
        yield from _data_sets(root)
    except PermissionError as error:
        said = f"{error.filename} is closed to you: open it, or name another root"
        yield Finding("data root", "broken", said if error.filename else f"{where}: {error}")


def _data_sets(root: Path) -> Iterator[Finding]:
    by_state: dict[str, list[str]] = {}
    for info in catalogue():
        found = state_of(info, root)
        by_state.setdefault(found.state, []).append(info.name)
        if found.state == "incomplete":
            yield Finding(
                info.name, "note", f"{found.lacking}: `ntdh-bench data verify {info.name}`"
            )
    for state in ("real", "simulated", "missing"):
        if state in by_state:
            yield Finding(f"data {state}", "ok", ", ".join(by_state[state]))


def _folders() -> Iterator[Finding]:
    cache = default_cache_dir()
    entries = total() if os.path.isdir(cache) else "empty"  # noqa: PTH112 (it may be closed)
    for what, folder, more in (
        ("cache", cache, f"{entries}; "),
        ("runs", Path("runs"), ""),
        ("temporary", Path(tempfile.gettempdir()), ""),
    ):
        yield _writable(what, folder, more)


def _writable(what: str, folder: Path, more: str) -> Finding:
    """Try to write where a run would, at the nearest folder that is there."""
    above = folder.absolute(), *folder.absolute().parents
    there = next(path for path in above if os.path.exists(path))  # noqa: PTH110 (or closed)
    try:
        with tempfile.NamedTemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding(what, "broken", f"{folder}: {error.strerror}; a run cannot write there")
    state: State = "ok" if free >= _LEAST_SPACE else "note"
    return Finding(what, state, f"{more}{size_words(free)} free, {folder.absolute()}")


def _variables() -> Iterator[Finding]:
    given = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    yield Finding("variables", "ok", ", ".join(given) or "none that matter are set")
