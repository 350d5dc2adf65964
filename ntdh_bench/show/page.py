"""The page of one run: everything inside, nothing to load."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ntdh_bench import __version__
from ntdh_bench.records.columns import cut
from ntdh_bench.records.details import MAX_LATE_GAIN, late_gain
from ntdh_bench.records.identity import threads
from ntdh_bench.report.elements import badge, document, heads, scroll, section
from ntdh_bench.report.html import Html, el, join
from ntdh_bench.show import drawings
from ntdh_bench.show.runs import CONFIG, ShownRun, gain, scores
from ntdh_bench.show.settings import in_words

_STYLE = (Path(__file__).parent / "run.css").read_text("utf-8")
_ARMS = {
    "kd": "student with KD", "without_kd": "student without KD",
    "equal_task": "student without KD, smaller task weight",
    "matched": "student without KD, larger task weight", "single": "network",
}  # fmt: skip
_METRICS = {
    "accuracy": ("accuracy", "%"), "miou": ("mIoU", "%"), "point_miou": ("point mIoU", "%"),
    "completion_iou": ("completion IoU", "%"), "tcjsd": ("TCJSD", "nats"),
    "ncjsd": ("NCJSD", "nats"),
}  # fmt: skip
_OF_ANOTHER = ("tcjsd", "ncjsd")  # of a pair: no figure of a control with another teacher
_ENVIRONMENT = ("device", "cores", "threads", "git_commit")
_PARTS = ("distiller", "intervention", "optimizer", "scheduler")
_HASHES = ("config_hash", "baseline_hash", "teacher_hash", "data_fingerprint")


def render(run: ShownRun) -> str:
    """Return the page of a run."""
    parts = {
        "result": ("Result", _result(run)),
        "settings": ("What was run", _settings(run)),
        "curves": ("Curves", drawings.curves(run)),
        "classes": ("Classes", drawings.classes(run)),
        "samples": ("Samples", drawings.samples(run)),
        "mask": ("Mask", drawings.mask(run)),
        "again": ("Environment, and how to run it again", _again(run)),
    }
    shown = {name: part for name, part in parts.items() if part[1]}
    body = join(*(section(name, heading, content) for name, (heading, content) in shown.items()))
    headings = {name: heading.partition(",")[0] for name, (heading, _) in shown.items()}
    foot = el("p", f"Made by ntdh-bench {__version__} from the files of the run alone.")
    return document(run.name, _top(run), headings, body, foot, _STYLE)


def measure_of(run: ShownRun) -> str:
    """Return what a run's data are judged by."""
    return str(run.row["measure"] or "accuracy") if run.row else "accuracy"


def _top(run: ShownRun) -> Html:
    if run.record is None or run.row is None:
        badges = [badge("not finished", "fails")]
        words = "This run did not finish."
    else:
        row, source = run.row, run.row["source"]
        badges = [badge(source)]
        method = f", by {row['method']}" if row["arm"] == "kd" and row["method"] else ""
        words = f"{row['dataset']}, {_ARMS.get(row['arm'], row['arm'])}{method}, seed {row['seed']}"
    missing = [el("li", text) for text in run.missing]
    notes = el("details", el("summary", f"Missing here ({len(missing)})"), el("ul", *missing))
    return el(
        "header",
        el("h1", run.name),
        el("p", *badges, " ", words),
        notes if missing else "",
    )


# -- result --------------------------------------------------------------------------------------


def _result(run: ShownRun) -> Html:
    if run.record is None or run.row is None:
        return el("p", "Nothing was tested: the run did not finish, or still goes on.")
    shown = [name for name in _METRICS if name in scores(run.record)]
    baselines = run.baselines()
    head = ["on test data", *(f"{name} [{unit}]" for name, unit in map(_METRICS.get, shown))]  # type: ignore[misc]
    head += [f"gain over {name} [points]" for name in baselines]
    lines = [_line(name, values, shown, gains) for name, values, gains in _rows(run, shown)]
    table = el("table", el("thead", heads(head, 1, sortable=False)), el("tbody", *lines))
    return join(scroll(table, "Result"), *(el("p", note, class_="note") for note in _notes(run)))


def _rows(
    run: ShownRun, shown: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, float], list[float | None]]]:
    """Yield name, metrics and gains over the controls, of every network that was tested."""
    assert run.record is not None
    measure, last, best = measure_of(run), scores(run.record), scores(run.record, "best")
    baselines = run.baselines()
    none: list[float | None] = [None] * len(baselines)
    teacher = {n: last[f"teacher_{n}"] for n in shown if f"teacher_{n}" in last}
    if teacher:
        yield "teacher", teacher, none
    for name, control in baselines.items():
        found = scores(control)
        alike = control.get("teacher_hash") == run.record.get("teacher_hash")
        between = control["config"].get("mask") == run.record["config"].get("mask")
        own = {n: v for n, v in found.items() if (alike and between) or n not in _OF_ANOTHER}
        yield f"student, {name}", own, none
    arm = _ARMS.get(run.record["arm"], "student")
    for name, found in ((f"{arm}, last epoch", last), (f"{arm}, best on validation", best)):
        if found:
            yield name, found, [gain(found, scores(c), measure) for c in baselines.values()]


def _line(
    name: str, values: Mapping[str, float], shown: Sequence[str], gains: Sequence[float | None]
) -> Html:
    cells = [_number(values.get(metric), metric) for metric in shown]
    cells += ["–" if gain is None else f"{gain:+.2f}" for gain in gains]
    return el("tr", el("th", name, scope="row"), *(el("td", cell) for cell in cells))


def _number(value: float | None, metric: str) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.2f}" if _METRICS[metric][1] == "%" else f"{value:.4f}"


def _notes(run: ShownRun) -> Iterator[str]:
    assert run.record is not None
    record, baselines = run.record, run.baselines()
    if record["source"] == "simulated":
        yield "Simulated data: these numbers say nothing about the published data set."
    if record["arm"] == "kd" and not baselines:
        yield (
            "No control lies beside this run, so that there is no gain: run the same config with "
            "--config overlays/without_kd in the same run_dir."
        )
    if baselines:
        yield (
            "The gain is of one seed, over the same student without KD: it holds the noise of "
            "training, and has no interval. `ntdh-bench sweep` runs several seeds."
        )
    others = {threads(control) for control in baselines.values()} - {threads(record)}
    if others:
        yield (
            f"Trained by {threads(record)} threads, without KD by {', '.join(map(str, others))}: "
            "part of the gain may be rounding."
        )
    late = late_gain((record.get("curves") or {}).get(measure_of(run)) or [])
    if late is not None and 100 * late >= MAX_LATE_GAIN:
        yield f"Still rising by {100 * late:.1f} points over the last fifth: not converged."


# -- settings ------------------------------------------------------------------------------------


def _settings(run: ShownRun) -> Html:
    model = run.settings.get("model") or {}
    arguments = model.get("init_args") or {}
    data, row = run.settings.get("data") or {}, run.row or {}
    networks = {
        "teacher": _network(arguments.get("teacher_network"), row.get("teacher_parameters")),
        "student": _network(
            arguments.get("student_network") or arguments.get("network"),
            row.get("student_parameters"),
        ),
    }
    weights = ("task_weight", "distill_weight", "lam")
    listed = {
        "data": in_words(data),
        "module": in_words({"class_path": model.get("class_path", "?")}),
        **networks,
        **{name: in_words(arguments[name]) for name in _PARTS if arguments.get(name)},
        "weights": ", ".join(f"{w} {in_words(arguments[w])}" for w in weights if arguments.get(w)),
        "mask": in_words(run.settings["mask"]) if run.settings.get("mask") else "",
        "epochs": str(row.get("epochs") or ""),
        "wall time": f"{row['seconds']:.0f} s" if row.get("seconds") else "",
    }
    return _list({name: text for name, text in listed.items() if text})


def _network(settings: Any, parameters: int | None) -> str:
    size = f"{parameters:,} parameters" if parameters else ""
    return ", ".join(filter(None, [in_words(settings) if settings else "", size]))


def _list(entries: Mapping[str, str]) -> Html:
    pairs = [part for k, v in entries.items() for part in (el("dt", k), el("dd", cut(v, 600)))]
    return el("dl", *pairs)


# -- again ---------------------------------------------------------------------------------------


def _again(run: ShownRun) -> Html:
    record = run.record or {}
    environment = record.get("environment") or {}
    versions = environment.get("versions") or {}
    hashes = {name.replace("_", " "): record.get(name) for name in _HASHES}
    listed = {
        **{name.replace("_", " "): environment.get(name) for name in _ENVIRONMENT},
        **versions,
        **hashes,
        "plugins": in_words(record["plugins"]) if record.get("plugins") else None,
        "finished": record.get("created"),
    }
    shown = _list({name: str(value) for name, value in listed.items() if value is not None})
    return join(_command(run), shown, _config(run))


def _command(run: ShownRun) -> Html:
    if run.path.suffix == ".json":
        words = (
            "Run its experiment again with `ntdh-bench sweep`: a record has no config beside it."
        )
        return el("p", words)
    command = f"ntdh-bench fit --config {shlex.quote(str(run.path / CONFIG))}"
    last = run.path / "checkpoints" / "last.ckpt"
    lines = [el("p", el("code", command), " repeats it, with the same bits on the same CPU, "
                "number of threads and versions.")]  # fmt: skip
    if last.is_file():
        verb = "test" if run.record else "fit"
        action = "tests its checkpoint." if run.record else "goes on where it stopped."
        again = f"ntdh-bench {verb} --ckpt_path {shlex.quote(str(last))}"
        lines.append(el("p", el("code", again), f" {action}"))
    return join(*lines)


def _config(run: ShownRun) -> Html:
    text = yaml.safe_dump(dict(run.settings), sort_keys=False, allow_unicode=True)
    return el("details", el("summary", "All settings"), el("pre", text))
