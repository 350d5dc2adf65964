"""The wheel: one import package, nothing left out, and it works away from the checkout."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml

from ntdh_bench import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "tool"
]["setuptools"]
FOLDERS: dict[str, str] = SETUPTOOLS["package-dir"]
CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that the checkout stays clean and old build files stay out."""
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS.values():
        shutil.copytree(
            ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    # The build backend itself: needs neither pip nor a network.
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (path,) = (source / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_python(unpacked: Path, cwd: Path, *arguments: str) -> str:
    """Run Python outside the checkout with the unpacked wheel first on its path; return stdout."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def entry_points(unpacked: Path, group: str) -> list[EntryPoint]:
    (info,) = unpacked.glob("*.dist-info")
    return [entry for entry in Distribution.at(info).entry_points if entry.group == group]


def imported(path: Path, package: str) -> set[str]:
    """Absolute names of the modules that a file of ``package`` imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(
    ("name", "forbidden"),
    [
        ("ntdh_bench", ("ntdh_bench.models", "ntdh_bench.datamodules")),
        ("ntdh_bench.models", ("ntdh_bench.datamodules",)),
        ("ntdh_bench.datamodules", ("ntdh_bench.models",)),
        ("ntdh_bench.sweep", ("ntdh_bench.commands",)),
        ("ntdh_bench.runs", ("ntdh_bench.commands", "ntdh_bench.sweep")),
        ("ntdh_bench.parsing", ("ntdh_bench.commands", "ntdh_bench.runs", "ntdh_bench.sweep")),
        ("ntdh_bench.report", ("ntdh_bench.paper", "ntdh_bench.people", "ntdh_bench.study")),
        ("ntdh_bench.study", ("ntdh_bench.paper", "ntdh_bench.people", "ntdh_bench.runs")),
        ("ntdh_bench.distillers", ("ntdh_bench.paper",)),
    ],
)
def test_dependencies_point_one_way(name: str, forbidden: tuple[str, ...]) -> None:
    forbidden += ("models", "datamodules", "configs")
    folder = ROOT / FOLDERS.get(name, name.replace(".", "/"))
    for path in folder.rglob("*.py"):
        if path == ROOT / "ntdh_bench" / "__init__.py":
            continue  # shows all of them to who imports it, and imports none itself
        package = ".".join((name, *path.parent.relative_to(folder).parts))
        wrong = [
            module
            for module in imported(path, package)
            for banned in forbidden
            if module == banned or module.startswith(f"{banned}.")
        ]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_every_python_folder_is_listed() -> None:
    found = set()
    for name, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            found.add(".".join((name, *path.parent.relative_to(ROOT / folder).parts)))
    assert found | {"ntdh_bench.configs"} == set(SETUPTOOLS["packages"])


def test_version_citation_and_changelog_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, date = re.findall(r"^## \[(\d\S*)\] - (\S+)$", changes, re.MULTILINE)[0]
    assert (version, date) == (__version__, str(citation["date-released"]))
    assert citation["version"] == __version__


def test_wheel_has_one_top_level_name(unpacked: Path) -> None:
    names = {path.name for path in unpacked.iterdir() if path.suffix != ".dist-info"}
    assert names == {"ntdh_bench"}


def test_wheel_has_every_module_and_data_file(unpacked: Path) -> None:
    expected = {"ntdh_bench" / path for path in CONFIGS}
    data = [path for path in (ROOT / "ntdh_bench").rglob("*") if path.is_file()]
    expected |= {path.relative_to(ROOT) for path in data if path.suffix != ".pyc"}
    lists = (ROOT / "datamodules").rglob("*.yaml")
    expected |= {"ntdh_bench" / path.relative_to(ROOT) for path in lists}
    for name, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            expected.add(Path(*name.split(".")) / path.relative_to(ROOT / folder))
    found = {path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()}
    assert CONFIGS
    assert expected == {path for path in found if path.parts[0] == "ntdh_bench"}


def test_wheel_carries_the_licence(unpacked: Path) -> None:
    (licence,) = unpacked.glob("*.dist-info/licenses/LICENSE")
    assert "Apache License" in licence.read_text(encoding="utf-8")


def test_light_entry_points_resolve_without_torch(unpacked: Path, tmp_path: Path) -> None:
    entries = entry_points(unpacked, "console_scripts")
    entries += entry_points(unpacked, "ntdh_bench.datasets")
    entries += entry_points(unpacked, "ntdh_bench.papers")
    entries += entry_points(unpacked, "ntdh_bench.studies")
    assert {entry.name for entry in entries} >= {"ntdh-bench", "mnist", "ntdh", "synthetic"}
    values = [entry.value for entry in entries]
    code = (
        "import sys; from importlib.metadata import EntryPoint\n"
        f"for value in {values!r}: EntryPoint('name', value, 'group').load()\n"
        "import ntdh_bench; print(ntdh_bench.__file__); assert 'torch' not in sys.modules"
    )
    assert run_python(unpacked, tmp_path, "-c", code).startswith(str(unpacked))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("--help", "fit"),
        ("data list", "mnist"),
        ("config show ravdess_dkd", "AudioCNN"),
    ],
)
def test_module_runs_outside_the_checkout(
    unpacked: Path, tmp_path: Path, arguments: str, part: str
) -> None:
    assert part in run_python(unpacked, tmp_path, "-m", "ntdh_bench", *arguments.split())


@pytest.mark.slow
def test_plugins_resolve_outside_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    values = [entry.value for entry in entry_points(unpacked, "ntdh_bench.plugins")]
    assert len(values) == 3
    code = (
        "import sys; from importlib.metadata import EntryPoint\n"
        f"for value in {values!r}: EntryPoint('name', value, 'group').load()\n"
        "print(sys.modules['ntdh_bench.models'].__file__)"
    )
    assert run_python(unpacked, tmp_path, "-c", code).startswith(str(unpacked))


def test_checkout_finds_the_folders_beside_the_package(tmp_path: Path) -> None:
    """From the repository root the local ntdh_bench/ comes first and must find its siblings."""
    code = (
        "import importlib.util as u, ntdh_bench\n"
        "for name in ('models', 'datamodules', 'configs'):\n"
        "    spec = u.find_spec(f'ntdh_bench.{name}')\n"
        "    print(list(spec.submodule_search_locations)[0])"
    )
    shown = run_python(ROOT, tmp_path, "-c", code).split()
    assert [Path(line) for line in shown] == [
        ROOT / "models",
        ROOT / "datamodules",
        ROOT / "configs",
    ]
