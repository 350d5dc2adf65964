"""Model cards: what an exported network is, where it comes from, and how it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ntdh_bench import __version__
from ntdh_bench.batch import Inputs
from ntdh_bench.composition import arguments_of
from ntdh_bench.datasets import dataset_names, find_dataset
from ntdh_bench.errors import UserError
from ntdh_bench.exporting import tensors_of
from ntdh_bench.parsing.parser import run_folder
from ntdh_bench.records.files import find_controls, gain, read_record
from ntdh_bench.records.identity import environment
from ntdh_bench.report.tables import markdown_rows
from ntdh_bench.runs.run import Run

_UNKNOWN = "not known here: see who published the data"


def model_card(
    run: Run,
    modality: str,
    path: Path,
    loading: Sequence[str],
    inputs: Inputs,
    difference: float,
) -> str:
    """Return the card of an exported network, as Markdown.

    Args:
        run: measured, its data loaded.
        modality: which of its networks: ``student`` or ``teacher``.
        path: of the network's file.
        loading: the lines of :func:`loading_lines`.
        inputs: of some samples.
        difference: the largest between two logits of the network and of the file.
    """
    record = _record(run)
    data, identity = run.data, run.identity
    name = ", ".join(filter(None, [run.described.method, record.get("arm")]))
    simulated = "**simulated**: its numbers say nothing about the published data set"
    facts = {
        "Network": f"{modality} of a run of ntdh-bench" + (f" ({name})" if name else ""),
        "Checkpoint": str(run.checkpoint),
        "Data set": f"{data.name}, {simulated if data.source == 'simulated' else 'real'}",
        "Licence of the data": _licence(data.name),
        "Seed": str(identity["seed"]),
        "Inputs": "; ".join(_shapes(inputs)),
        "Normalisation": data.normalisation or "as the data module gives its inputs",
        "Classes": _classes(data),
        "Checked": f"logits of test samples differ by at most {difference:.2g} from the network's",
    }
    table = markdown_rows(["", ""], [[key, value] for key, value in facts.items()])
    settings = yaml.safe_dump(identity, sort_keys=False, default_flow_style=None, width=100)
    parts = [
        f"# {path.name}", table, "## Load it", "\n".join(["```python", *loading, "```"]),
        "## Measured", _measured(run, modality, record), "## Versions", _versions(record),
        "## Settings", f"```yaml\n{settings}```",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


# -- how it is loaded ----------------------------------------------------------------------------


def loading_lines(
    run: Run, modality: str, file: str, format_name: str, inputs: Inputs
) -> list[str]:
    """Return the Python that loads an exported file and runs it on one sample of zeros.

    Raises:
        UserError: the run's config does not say, in a few words, how the network is made.
    """
    zeros = _zeros(inputs)
    if format_name == "torch_export":
        return [
            "import torch", "", f"network = torch.export.load({file!r}).module()",
            "with torch.inference_mode():", f"    logits = network({zeros})",
        ]  # fmt: skip
    if format_name == "onnx":
        given = ", ".join(
            f"{name or 'input'!r}: {_zeros(value)}.numpy()"
            for name, value in tensors_of(inputs).items()
        )
        return [
            "import torch", "from onnxruntime import InferenceSession", "",
            f"session = InferenceSession({file!r})",
            f"logits = session.run(None, {{{given}}})[0]",
        ]  # fmt: skip
    imports, expression = _constructor(run, modality)
    return [
        "import torch", *imports, "", f"network = {expression}.eval()",
        f"network.load_state_dict(torch.load({file!r}, weights_only=True))",
        f"logits = network({zeros})",
    ]  # fmt: skip


def _zeros(inputs: Inputs) -> str:
    if isinstance(inputs, dict):
        return "{" + ", ".join(f"{n!r}: {_zeros(value)}" for n, value in inputs.items()) + "}"
    shape = ", ".join(map(str, (1, *inputs.shape[1:])))
    kind = "" if inputs.is_floating_point() else f", dtype={inputs.dtype}"
    return f"torch.zeros({shape}{kind})"


def _constructor(run: Run, modality: str) -> tuple[list[str], str]:
    """Return the imports and the expression that build an untrained network, from the config."""
    settings = arguments_of(run.config["model"])
    own = settings.get("network") or settings.get(f"{modality}_network")
    own = own or settings.get("student_network")  # a teacher like the student
    if own is None:
        raise UserError(
            f"{run.config['model']['class_path']} has no argument {modality}_network, by which "
            "five lines of Python could make it: choose --format torch_export"
        )
    fusion = settings.get("teacher_fusion") if modality == "teacher" else None
    if not fusion:
        return [_import(own)], _call(own)
    parts = [own, settings["student_network"]]
    imports = dict.fromkeys(map(_import, (fusion, *parts)))
    return list(imports), _call(fusion, *(f"lambda: {_call(part)}" for part in parts))


def _import(settings: Mapping[str, Any]) -> str:
    module, _, name = settings["class_path"].rpartition(".")
    return f"from {module} import {name}"


def _call(settings: Mapping[str, Any], *arguments: str) -> str:
    init = settings.get("init_args") or {}
    nested = [name for name, value in init.items() if isinstance(value, dict)]
    if nested:
        raise UserError(
            f"{settings['class_path']} takes {nested[0]}, which five lines of Python cannot say: "
            "choose --format torch_export"
        )
    words = [*arguments, *(f"{name}={value!r}" for name, value in init.items())]
    return f"{settings['class_path'].rpartition('.')[2]}({', '.join(words)})"


# -- what it is ----------------------------------------------------------------------------------


def _record(run: Run) -> dict[str, Any]:
    """Return the run's record; nothing if it has not ended."""
    path = run_folder(str(run.checkpoint)) / "record.json"
    return read_record(path) if path.is_file() else {}


def _licence(name: str) -> str:
    return find_dataset(name).licence if name in dataset_names() else _UNKNOWN


def _shapes(inputs: Inputs) -> Iterator[str]:
    for name, value in tensors_of(inputs).items():
        kind = str(value.dtype).removeprefix("torch.")
        shape = ", ".join(map(str, ("B", *value.shape[1:])))
        yield f"{name and f'`{name}` '}{kind} ({shape})"


def _classes(data: Any) -> str:
    names = data.class_names or tuple(map(str, range(data.num_classes)))
    return f"{data.num_classes}, in the order of the logits: {', '.join(names)}"


def _measured(run: Run, modality: str, record: Mapping[str, Any]) -> str:
    """Return a table of the checkpoint's metrics, and its gain over the controls beside the run."""
    file = Path(str(run.checkpoint)).name
    found = {kind: of for kind, of in record.get("metrics", {}).items() if of}
    kind = next((kind for kind, of in found.items() if of["checkpoint"] == file), None)
    if kind is None:
        return f"Not recorded: `ntdh-bench test --ckpt_path {run.checkpoint}` measures it."
    metrics = found[kind]
    splits = [split for split in ("val", "test") if split in metrics]
    rows = [
        [name, *(f"{metrics[split][name]:.4f}" for split in splits)]
        for name in _named(metrics["test"], modality)
    ]
    lines = [markdown_rows(["metric", *splits], rows, numbers=len(splits))]
    if modality == "teacher" and run.identity["mask"]:
        lines += ["", "Measured with the run's mask, which is not part of the file."]
    if modality == "student" and record["arm"] == "kd":
        lines += ["", *_gains(run, record, kind)]
    return "\n".join(lines)


def _named(metrics: Mapping[str, float], modality: str) -> Iterator[str]:
    """Yield the metrics that say something of a network."""
    for name in metrics:
        if modality == "student" or name.startswith("teacher_") or len(metrics) == 1:
            yield name


def _gains(run: Run, record: Mapping[str, Any], kind: str) -> Iterator[str]:
    """Yield a line on each control of the same seed beside the run."""
    beside = run_folder(str(run.checkpoint)).parent
    controls = find_controls(beside, record["config"])
    for weight, control in sorted(controls.items()):
        points = f"{100 * gain(record, control, kind):+.2f} points of {record['measure']}"
        yield (
            f"- Gain over the same student without KD (task weight {weight:g}, the same seed): "
            f"{points}; one seed says little."
        )
    if not controls:
        yield f"- Gain: not known, there is no control of this seed in {beside}."


def _versions(record: Mapping[str, Any]) -> str:
    trained = record.get("environment", environment())
    versions = ", ".join(f"{name} {number}" for name, number in trained["versions"].items())
    lines = [f"- Trained with {versions}, on {trained['device']}."]
    if plugins := record.get("plugins"):
        lines.append(f"- Third-party code: {plugins}")
    hashes = {name: record[name] for name in ("config_hash", "data_fingerprint") if name in record}
    lines.append(f"- {', '.join(f'{n} `{h}`' for n, h in hashes.items()) or 'not recorded'}")
    lines.append(f"- Exported by ntdh-bench {__version__}.")
    return "\n".join(lines)
