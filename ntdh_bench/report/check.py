"""Whether ``results/`` is up to date: hashes of what it was made from and of what was made.

Imports nothing heavy: the check takes about a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ntdh_bench import __version__
from ntdh_bench.cache import build_once, default_cache_dir, digest, file_digest, is_intact
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.experiments import shipped_experiments
from ntdh_bench.files.reading import reading
from ntdh_bench.files.schema import mismatch
from ntdh_bench.files.text import read_json
from ntdh_bench.plugins import registered
from ntdh_bench.provenance import code_of
from ntdh_bench.records.collecting import OUTDATED
from ntdh_bench.records.columns import RecordError, Row, by_key
from ntdh_bench.records.files import read_run
from ntdh_bench.records.identity import place_of
from ntdh_bench.records.rows import experiment_csvs, read_rows, to_row

#: Entry points of papers, and of studies, which are loaded elsewhere.
GROUP, STUDIES = "ntdh_bench.papers", "ntdh_bench.studies"
MANIFEST = "manifest.json"
VERSION = "ntdh-bench"
CONFIGS = "configs/sweeps/"
RECORDS = "records/"
PAPERS = "papers/"
_RUN_AGAIN = "delete it, and `ntdh-bench sweep` runs it again"
ALL = "*"  # an output made from every input
_ENGINE = Path(__file__).parents[1]
_LIBRARIES = ("numpy", "scipy", "matplotlib")
_SCHEMA = {
    "inputs": {str: str},
    "outputs": {str: {"sha256": str, "inputs": [str]}},
    "unlisted_records": [str],
}


def input_hashes(results: Path) -> dict[str, str]:
    """Return the SHA-256 of everything outputs are made from, by name; and the version."""
    records = results / "records"
    found = [*records.glob("*.csv"), *records.glob(f"*{OUTDATED}")]
    files = {f"{RECORDS}{path.name}": path for path in found}
    files |= {f"{CONFIGS}{path.name}": path for path in shipped_experiments().values()}
    hashes = {name: file_hash(files[name]) for name in sorted(files)}
    papers = {f"{PAPERS}{name}": found for name, found in paper_digests().items()}
    return {VERSION: __version__, **papers, **hashes}


def paper_digests() -> dict[str, str]:
    """Return 16 hex digits, by name, of each paper's place and of the YAML files beside it."""
    return {name: _paper_digest(entry) for name, entry in registered(GROUP).items()}


def _paper_digest(entry: EntryPoint) -> str:
    try:
        spec = find_spec(entry.module)
    except (ImportError, AttributeError):  # loading it will say so
        spec = None
    in_package = spec is not None and spec.parent and spec.origin
    files = sorted(Path(str(spec.origin)).parent.glob("*.yaml")) if spec and in_package else []
    return digest([entry.value, {path.name: file_digest(path) for path in files}])


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits.

    Raises:
        FileError: it is no regular file, or cannot be read.
    """
    with reading(path, "a file", "check its permissions"):
        return file_digest(path, "sha256")


class Manifest(NamedTuple):
    """What an earlier build noted down.

    Attributes:
        inputs: name to hash of what everything was made from.
        outputs: path in the results folder to ``sha256`` and ``inputs`` of what was made.
        unlisted: runs in the store that belong to no experiment.
    """

    inputs: dict[str, str]
    outputs: dict[str, dict[str, Any]]
    unlisted: set[str]


def read_manifest(results: Path) -> Manifest:
    """Return the manifest of a results folder.

    Raises:
        FileError: it is missing or damaged, or names a file outside of the folder.
    """
    path = results / MANIFEST
    found = read_json(path, remedy="run `ntdh-bench tables`")
    wrong = mismatch(found, _SCHEMA, "the file")
    if wrong is None and not all(map(_is_output, found["outputs"])):
        wrong = "a name in its outputs"
    if wrong is not None:
        raise FileError(f"{path}: damaged ({wrong}); run `ntdh-bench tables`")
    return Manifest(found["inputs"], found["outputs"], set(found["unlisted_records"]))


def _is_output(name: str) -> bool:
    """Return whether builds write such a file: those of an earlier one are removed."""
    return re.fullmatch(r"((tables|figures)/)?\w[\w.-]*", name) is not None


def check(results: Path, store: Path) -> list[str]:
    """Return what is not up to date or cannot be read, a line each; nothing if all is well.

    Args:
        results: folder of records, tables, figures and the manifest.
        store: folder of a sweep's records; it need not exist.
    """
    try:
        manifest = read_manifest(results)
    except FileError as error:
        return [str(error)]
    return [
        *_changed_inputs(input_hashes(results), manifest.inputs, manifest.outputs),
        *_changed_outputs(results, manifest.outputs),
        *_changed_records(results, store, manifest.unlisted),
    ]


def is_current(results: Path, store: Path) -> bool:
    """Return whether a build would change nothing: all is up to date, and this code made it."""
    return not check(results, store) and is_intact(_mark(results))


def mark_current(results: Path) -> None:
    """Note, in the cache, that this code made what the manifest lists; if it can be written."""
    with suppress(UserError):
        build_once(_mark(results), Path.touch)


def _mark(results: Path) -> Path:
    made = digest([code_digest(), file_hash(results / MANIFEST)])
    return default_cache_dir() / "reports" / f"report-{made}"


@cache
def code_digest() -> str:
    """Return 16 hex digits of this code, of plug-ins' papers and studies, and of their libraries.

    Read once a process: what runs is what was there at first.
    """
    files = sorted(path for kind in ("py", "css", "js") for path in _ENGINE.rglob(f"*.{kind}"))
    entries = [*registered(GROUP).values(), *registered(STUDIES).values()]
    named = [entry.value.replace(":", ".") for entry in entries]
    return digest(
        [
            {str(path.relative_to(_ENGINE)): file_digest(path) for path in files},
            {name: version(name) for name in _LIBRARIES},
            code_of(named),
        ]
    )


def _changed_inputs(
    now: Mapping[str, str], then: Mapping[str, str], outputs: Mapping[str, Any]
) -> list[str]:
    found = []
    for name in sorted(now.keys() | then.keys()):
        if now.get(name) != then.get(name):
            change = "is new" if name not in then else "is gone" if name not in now else "changed"
            of_all = [path for path in outputs if ALL in outputs[path]["inputs"]]
            made = [path for path in outputs if name in outputs[path]["inputs"]] + of_all
            stale = f"; stale: {_few(made)}" if made else ""
            found.append(f"{name} {change}{stale}")
    return found


def _changed_outputs(results: Path, outputs: Mapping[str, Any]) -> list[str]:
    found = []
    for name, output in outputs.items():
        path = results / name
        if not path.is_file():
            found.append(f"{path} is missing")
        elif file_hash(path) != output["sha256"]:
            found.append(f"{path} was edited")
    return found


def _changed_records(results: Path, store: Path, unlisted: set[str]) -> list[str]:
    """Compare the store's records with the rows that were collected from them."""
    files = {path.stem: path for path in sorted((store / "records").glob("*.json"))}
    rows, found = _rows_by_run(results) if files else ({}, [])
    damages = {run: damage(files[run]) for run in sorted(files.keys() - rows.keys() - unlisted)}
    found += [told for told in damages.values() if told]
    uncollected = [run for run, told in damages.items() if not told]
    if uncollected:
        few = _few(uncollected)
        found.append(f"{store}: {len(uncollected)} records not collected yet ({few})")
    for run in files.keys() & rows.keys():
        found += _differences(files[run], rows[run])
    return found


def _rows_by_run(results: Path) -> tuple[dict[str, list[Row]], list[str]]:
    """Return the rows of all CSVs, and which files are none."""
    rows, problems = [], []
    for path in experiment_csvs(results):
        try:
            rows += read_rows(path).rows
        except RecordError as error:
            problems.append(str(error))
    return by_key(rows, lambda row: str(row["run"])), problems


def damage(path: Path) -> str | None:
    """Return what is wrong with a record, None if it can be collected."""
    try:
        read_run(path, path.stem)
    except RecordError as error:
        return f"{error}; {_RUN_AGAIN}"
    return None


def _differences(path: Path, rows: Iterable[Row]) -> list[str]:
    try:
        record = read_run(path, path.stem)
        return [
            f"{path} differs from its row in {RECORDS}{row['experiment']}.csv"
            for row in rows
            if to_row(record, place_of(row)) != row
        ]
    except RecordError as error:
        return [f"{error}; {_RUN_AGAIN}"]


def _few(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
