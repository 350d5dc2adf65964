"""Trained networks as files that other programs load, each compared with its network once written.

TorchScript is not among them: PyTorch deprecates it in favour of ``torch.export``.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ntdh_bench.batch import Inputs
from ntdh_bench.cache import write_atomic
from ntdh_bench.errors import UserError
from ntdh_bench.networks import evaluating

FormatName: TypeAlias = Literal["state_dict", "torch_export", "onnx"]
#: What networks return: logits, or several of them by name.
Outputs: TypeAlias = Tensor | Mapping[str, Tensor]
NetworkBuilder: TypeAlias = Callable[[], nn.Module]

_FOR_ONNX = ("onnxscript", "onnxruntime")
_OTHERS = "choose another --format"
#: Of the largest logit: runtimes add in another order.
_TOLERANCE = 1e-4


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        suffix: of its name.
        write: writes a network, in eval mode and on the CPU, that takes such inputs.
        load: gives what the file predicts; the builder is of an untrained network like it.
    """

    suffix: str
    write: Callable[[nn.Module, Inputs, Path], None]
    load: Callable[[Path, NetworkBuilder], Callable[[Inputs], Outputs]]


def check_format(name: str) -> None:
    """Refuse a format that cannot be written here.

    Raises:
        UserError: there is no such format, or a package that it takes is not installed.
    """
    if name == "torchscript":
        raise UserError("TorchScript is deprecated in PyTorch: choose --format torch_export")
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r}: choose one of {', '.join(FORMATS)}")
    missing = [package for package in _FOR_ONNX if find_spec(package) is None]
    if name == "onnx" and missing:
        raise UserError(
            f"--format onnx needs {' and '.join(missing)}: pip install 'ntdh-bench[export]'"
        )


@torch.no_grad()
def export_network(
    network: nn.Module,
    build: NetworkBuilder,
    batches: Sequence[Inputs],
    path: Path,
    format_name: FormatName,
) -> float:
    """Write a network to a file that takes batches of any size, whole or not at all.

    The file is loaded again, and what it predicts is compared with what the network does.

    Args:
        network: on the CPU; left as it is.
        build: gives an untrained one like it.
        batches: inputs of real samples, on which both are compared; all but the number of samples
            is fixed to what it is in the first.
        path: of the file.
        format_name: which kind of file.

    Returns:
        The largest difference between two logits.

    Raises:
        UserError: the format cannot be written here, cannot express the network, or predicts
            something else than the network does.
    """
    check_format(format_name)
    chosen = FORMATS[format_name]
    name = type(network).__name__
    with write_atomic(path) as temporary, evaluating(network):
        with _converting(f"{name} cannot be written as {format_name}"):
            chosen.write(network, _two_samples(batches[0]), temporary)
            predict = chosen.load(temporary, build)
            found = [_difference(network(inputs), predict(inputs)) for inputs in batches]
        difference = max(each for each, _ in found)
        largest = max(each for _, each in found)
        if not difference <= _TOLERANCE * max(1.0, largest):
            raise UserError(
                f"{name} written as {format_name} predicts other logits, by up to "
                f"{difference:.2g}: nothing is kept; {_OTHERS}"
            )
    return difference


def tensors_of(value: Outputs | Inputs) -> dict[str, Tensor]:
    """Return inputs or outputs by name; one tensor has the empty name."""
    return {"": value} if isinstance(value, Tensor) else dict(value)


@contextmanager
def _converting(failure: str) -> Iterator[None]:
    """Let nothing be printed in the block; whatever is raised in it becomes one clear line."""
    unseen = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(unseen), redirect_stderr(unseen):
            warnings.simplefilter("ignore")
            yield
    except (UserError, OSError):
        raise
    except Exception as error:  # PyTorch's and ONNX's converters raise errors of many kinds
        raise UserError(f"{failure}: {_cause(error)}; {_OTHERS}") from error
    finally:
        logging.disable(before)


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _two_samples(inputs: Inputs) -> Inputs:
    """Return the first sample twice: a size of one would be taken for a constant."""
    if isinstance(inputs, Tensor):
        return torch.cat([inputs[:1], inputs[:1]])
    return {name: torch.cat([value[:1], value[:1]]) for name, value in inputs.items()}


def _difference(expected: Outputs, found: Outputs) -> tuple[float, float]:
    """Return the largest difference between outputs, and the largest output."""
    pairs = list(zip(tensors_of(expected).values(), tensors_of(found).values(), strict=True))
    differences = [float((left - right).abs().max()) for left, right in pairs]
    return max(differences), max(float(left.abs().max()) for left, _ in pairs)


# -- weights alone -------------------------------------------------------------------------------


def _write_state(network: nn.Module, inputs: Inputs, path: Path) -> None:
    torch.save(network.state_dict(), path)


def _load_state(path: Path, build: NetworkBuilder) -> Callable[[Inputs], Outputs]:
    weights, network = torch.load(path, weights_only=True), build().eval()
    expected = {name: value.shape for name, value in network.state_dict().items()}
    if expected != {name: value.shape for name, value in weights.items()}:
        raise UserError(
            f"training changed the layers of {type(network).__name__} (as SimKD does its head), so "
            "that weights alone do not fit it: choose --format torch_export"
        )
    network.load_state_dict(weights)
    return network


# -- programs ------------------------------------------------------------------------------------


def _traced(network: nn.Module, inputs: Inputs) -> ExportedProgram:
    first: Any = {0: Dim("batch", min=1)}
    dynamic = first if isinstance(inputs, Tensor) else dict.fromkeys(inputs, first)
    return torch.export.export(network, (inputs,), dynamic_shapes=(dynamic,))


def _write_program(network: nn.Module, inputs: Inputs, path: Path) -> None:
    torch.export.save(_traced(network, inputs), path)


def _load_program(path: Path, build: NetworkBuilder) -> Callable[[Inputs], Outputs]:
    program: nn.Module = torch.export.load(path).module()
    return program


def _write_onnx(network: nn.Module, inputs: Inputs, path: Path) -> None:
    aten = torch.ops.aten
    pools = aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default
    program = _traced(network, inputs).run_decompositions(dict.fromkeys(pools, _adaptive_max_pool))
    names = [name or "input" for name in tensors_of(inputs)]
    outputs = [name or "logits" for name in tensors_of(network(inputs))]
    written = torch.onnx.export(program, dynamo=True, input_names=names, output_names=outputs)
    assert written is not None
    written.save(path)


def _load_onnx(path: Path, build: NetworkBuilder) -> Callable[[Inputs], Outputs]:
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def predict(inputs: Inputs) -> Outputs:
        given = {name or "input": value.numpy() for name, value in tensors_of(inputs).items()}
        names = [output.name for output in session.get_outputs()]
        found = map(torch.from_numpy, session.run(None, given))
        return dict(zip(names, found, strict=True))

    return predict


def _adaptive_max_pool(maps: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Pool the last dimensions, fixed in an exported program, by slices: ONNX cannot do it.

    The indices, which a network may take as well but none here does, are not real.
    """
    for dim, count in enumerate(size, start=-len(size)):
        length = maps.shape[dim]
        cells = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
        parts = [maps.narrow(dim, a, b - a).amax(dim, keepdim=True) for a, b in cells]
        maps = torch.cat(parts, dim)
    return maps, torch.zeros_like(maps, dtype=torch.int64)


FORMATS: dict[str, Format] = {
    "state_dict": Format(".pt", _write_state, _load_state),
    "torch_export": Format(".pt2", _write_program, _load_program),
    "onnx": Format(".onnx", _write_onnx, _load_onnx),
}
