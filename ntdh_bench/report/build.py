"""Everything in ``results/`` but the records: tables, figures, claims, the page, the manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ntdh_bench.cache import write_atomic
from ntdh_bench.errors import FileError
from ntdh_bench.experiments import Experiment, load_shipped
from ntdh_bench.notices import notice
from ntdh_bench.records.collecting import collect
from ntdh_bench.records.columns import RecordError
from ntdh_bench.report import check, evidence, figures, page, tables, wording
from ntdh_bench.report.claims import Result, ledger
from ntdh_bench.report.contents import Content, Variant, contents, stem_of
from ntdh_bench.report.evidence import Evidence, OfMaps
from ntdh_bench.report.html import join
from ntdh_bench.report.hypothesis import Hypothesis, Point, test_hypothesis
from ntdh_bench.report.papers import Paper, papers
from ntdh_bench.report.studies import studies


@dataclass(frozen=True)
class Output:
    """A file of the report: its text, and the names of what it is made from."""

    text: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What a build made.

    Attributes:
        evidence: the rows, and what could not be read.
        contents: all exhibits.
        claims: the ledger.
        hypothesis: the test.
        outputs: number of files.
        rebuilt: number of those that were written, as they were not there or not the same.
    """

    evidence: Evidence
    contents: list[Content]
    claims: list[Result]
    hypothesis: Hypothesis
    outputs: int
    rebuilt: int


def build(results: Path, store: Path) -> Report:
    """Collect the records in ``store``, if there is one, and write all that is derived from them.

    Every file is written whole or not at all, the manifest last. One that is the same is left as it
    is. Files that an earlier build wrote and this one does not are removed.

    Raises:
        UserError: a folder cannot be written.
    """
    experiments = load_shipped()
    problems = _collect(experiments, store, results)
    inputs = check.input_hashes(results)
    known = papers()
    found = evidence.read(results, _of_maps(known))
    found.problems.extend(problem for problem in problems if problem not in found.problems)
    exhibits = contents(found, known, {e.name: e.title for e in experiments})
    hypothesis = test_hypothesis(found.tested)
    claims = ledger(found.tested, known, hypothesis)
    added = [study(found.tested) for study in studies()]
    left_out = [problem for a in added for problem in a.left_out]
    found.problems.extend(left_out)
    found.conflicts.extend(left_out)
    outputs = {
        **{name: output for content in exhibits for name, output in _exhibit(content).items()},
        **_tests(claims, hypothesis),
        **{name: Output(text, (check.ALL,)) for a in added for name, text in a.files.items()},
    }
    front = join(*(a.front for a in added if a.front))
    text = page.render(found, known, exhibits, claims, hypothesis, experiments, front)
    outputs["index.html"] = Output(text, (check.ALL,))
    rebuilt = _write(results, outputs, inputs, _unlisted(found, store))
    if not found.conflicts:  # else a build says so every time
        check.mark_current(results)
    return Report(found, exhibits, claims, hypothesis, len(outputs), rebuilt)


def _collect(experiments: Iterable[Experiment], store: Path, results: Path) -> list[str]:
    """Collect every experiment; a damaged record may belong to several, but is named once."""
    if not (store / "records").is_dir():
        return []
    found: list[str] = []
    for experiment in experiments:
        try:
            found += collect(experiment, store, results).problems
        except RecordError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def _of_maps(known: Mapping[str, Paper]) -> dict[str, OfMaps]:
    """Return what exhibits measure of the heat maps of their experiment."""
    exhibits = (exhibit for paper in known.values() for exhibit in paper.exhibits)
    return {e.experiment: e.of_maps for e in exhibits if e.experiment and e.of_maps}


def _unlisted(found: Evidence, store: Path) -> list[str]:
    """Return the whole records in the store that belong to no experiment."""
    listed = {row["run"] for row in found.all_rows}
    paths = (path for path in (store / "records").glob("*.json") if path.stem not in listed)
    return sorted(path.stem for path in paths if check.damage(path) is None)


# -- files ---------------------------------------------------------------------------------------


def _exhibit(content: Content) -> dict[str, Output]:
    """Return an exhibit's files by their path in the results folder."""
    exhibit = content.exhibit
    heading = f"{exhibit.label}. {exhibit.title}"
    found: dict[str, Output] = {}
    if content.blank:
        notes = ["Nothing was run yet.", exhibit.note]
        found |= _tables(content, stem_of(exhibit.name), heading, content.blank, notes)
    for variant in content.variants:
        title = f"{heading} ({wording.where(variant.protocol)}, {variant.source} data)"
        notes = [*variant.notes, exhibit.note, *_notes(variant)]
        if variant.tables:
            found |= _tables(content, variant.stem, title, variant.tables, notes)
        if variant.drawings:
            drawing = figures.side_by_side(variant.drawings, title)
            found[f"figures/{variant.stem}.svg"] = Output(drawing, _inputs(content))
    return found


def _tables(
    content: Content,
    stem: str,
    heading: str,
    shown: Sequence[tables.Table],
    notes: Sequence[str],
) -> dict[str, Output]:
    texts = {
        "md": tables.to_markdown(shown, heading, [note for note in notes if note]),
        "csv": tables.to_csv(shown),
        "tex": tables.to_latex(shown, heading, stem),
    }
    inputs = _inputs(content)
    return {f"tables/{stem}.{kind}": Output(text, inputs) for kind, text in texts.items()}


def _notes(variant: Variant) -> list[str]:
    if not variant.rows:
        return []
    made = [f"- {name}: {value}" for name, value in wording.provenance(variant.rows).items()]
    simulated = [wording.SIMULATED_NOTE] if variant.source == "simulated" else []
    return [*simulated, wording.SEEDS_NOTE, "\n".join(made)]


def _inputs(content: Content) -> tuple[str, ...]:
    """Return what an exhibit is made from; without an experiment of its own, everything."""
    paper = [f"{check.PAPERS}{content.paper}"] if content.paper else []
    if content.exhibit.experiment is None:
        return (check.ALL,)
    names = {row["experiment"] for variant in content.variants for row in variant.rows}
    names |= {name for name in (content.exhibit.experiment, content.exhibit.also) if name}
    kinds = ("", "_curves", "_maps")
    csvs = [f"{check.RECORDS}{name}{kind}.csv" for name in sorted(names) for kind in kinds]
    configs = [f"{check.CONFIGS}{name}.yaml" for name in sorted(names)]
    return (check.VERSION, *paper, *csvs, *configs)


def _tests(claims: Sequence[Result], hypothesis: Hypothesis) -> dict[str, Output]:
    texts = {
        "claims.csv": wording.claims_csv(claims),
        "claims.md": wording.claims_markdown(claims),
        "hypothesis.csv": wording.strata_csv(hypothesis.strata),
        "hypothesis.md": wording.hypothesis_markdown(hypothesis),
        "hypothesis_sets.csv": wording.sets_csv(hypothesis.summaries),
        "hypothesis_points.csv": wording.dataclass_csv(Point, hypothesis.points),
    }
    return {name: Output(text, (check.ALL,)) for name, text in texts.items()}


def _write(
    results: Path, outputs: dict[str, Output], inputs: dict[str, str], unlisted: list[str]
) -> int:
    """Write the outputs, then the manifest, and remove what an earlier build left over.

    Returns:
        The number of outputs that were not there, or not the same.
    """
    before = _earlier_outputs(results)
    rebuilt = sum(_write_text(results / name, output.text) for name, output in outputs.items())
    for name in before - outputs.keys():
        _remove(results, name)
    manifest = {
        "inputs": inputs,
        "outputs": {
            name: {"sha256": check.file_hash(results / name), "inputs": output.inputs}
            for name, output in sorted(outputs.items())
        },
        "unlisted_records": unlisted,
    }
    _write_text(results / check.MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return rebuilt


def _remove(results: Path, name: str) -> None:
    """Remove a file of an earlier build; none of another folder that a link leads to."""
    path = results / name
    if path.parent.resolve() == results.resolve() / path.parent.name:
        path.unlink(missing_ok=True)


def _earlier_outputs(results: Path) -> set[str]:
    try:
        outputs = check.read_manifest(results).outputs
    except FileError as error:
        if (results / check.MANIFEST).exists():
            notice(f"{error}, which leaves files of an earlier build where they are")
        return set()
    return {name for name in outputs if name.startswith(("tables/", "figures/"))}


def _write_text(path: Path, text: str) -> bool:
    """Write a file unless it has this text; returns whether it had not."""
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    with write_atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True
