"""Losses and divergences against reference values of other implementations (NTDH_GOLDEN)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ntdh_bench.distillers import CRD
from ntdh_bench.distillers.functional import dkd, fitnet, kd, pkt, rkd, sp
from ntdh_bench.divergence import ncjsd, tcjsd
from tests.typed import some

TOLERANCE = 1e-6


def load(folder: Path, name: str) -> dict[str, Tensor]:
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays if key != "_src"}


def close(actual: Tensor, expected: Tensor) -> None:
    """Relative to the largest entry, since entries near 0 are differences of larger ones."""
    expected = expected.reshape(actual.shape)
    assert actual.dtype == expected.dtype == torch.float64
    assert (actual - expected).abs().max() <= TOLERANCE * expected.abs().max()


def compare(data: dict[str, Tensor], key: str, case: str, loss: Any) -> None:
    student = data[f"{case}.in_student"].clone().requires_grad_()
    value = loss(student, data[f"{case}.in_teacher"])
    value.backward()
    close(value.detach(), data[f"{key}.loss_f64"])
    close(student.grad, data[f"{key}.grad_s_f64"])


@pytest.mark.parametrize("temperature", [1, 4])
@pytest.mark.parametrize("peer", ["repdistiller", "mdistiller"])
def test_kd(golden: Path, temperature: int, peer: str) -> None:
    key = f"C10.T{temperature}.{peer}"
    compare(load(golden, "kd"), key, "C10", lambda s, t: kd(s, t, float(temperature)))


@pytest.mark.parametrize(
    ("alpha", "beta", "temperature"),
    [(1, 8, 4), (1, 1, 1), (0.5, 0.5, 1), (1, 0, 1), (0, 1, 1), (16, 1, 0.7)],
)
@pytest.mark.parametrize("peer", ["mdistiller", "ntdh_authors"])
def test_dkd(golden: Path, alpha: float, beta: float, temperature: float, peer: str) -> None:
    data = load(golden, "dkd")
    target = data["C10.in_target"]
    key = f"C10.a{alpha}_b{beta}_T{temperature}.{peer}"
    compare(data, key, "C10", lambda s, t: dkd(s, t, target, alpha, beta, temperature))


@pytest.mark.parametrize("case", ["tcjsd", "ncjsd"])
def test_divergences(golden: Path, case: str) -> None:
    data = load(golden, "jsd")
    target = data["C10.in_target"]
    student = data["C10.in_student"].clone().requires_grad_()
    teacher = data["C10.in_teacher"].clone().requires_grad_()
    if case == "tcjsd":
        value = tcjsd(teacher, student, target, binary=True).mean()
    else:
        value = ncjsd(teacher, student, target).mean()
    value.backward()
    close(value.detach(), data[f"C10.{case}.ref_textbook.loss_f64"])
    close(some(student.grad), data[f"C10.{case}.ref_textbook.grad_s_f64"])
    close(some(teacher.grad), data[f"C10.{case}.ref_textbook.grad_t_f64"])


def test_fitnet(golden: Path) -> None:
    compare(load(golden, "fitnet"), "D16.repdistiller", "D16", fitnet)


@pytest.mark.parametrize(
    ("key", "distance", "angle"),
    [
        ("wd25_wa50.repdistiller", 25, 50),
        ("wd25_wa50.mdistiller", 25, 50),
        ("wd1_wa2.torchdistill", 1, 2),
        ("distance.lenscloth", 1, 0),
        ("angle.lenscloth", 0, 1),
    ],
)
def test_rkd(golden: Path, key: str, distance: float, angle: float) -> None:
    compare(load(golden, "rkd"), f"D16.{key}", "D16", lambda s, t: rkd(s, t, distance, angle))


@pytest.mark.parametrize("peer", ["repdistiller", "mdistiller", "torchdistill", "passalis"])
def test_pkt(golden: Path, peer: str) -> None:
    compare(load(golden, "pkt"), f"D16.{peer}", "D16", pkt)


@pytest.mark.parametrize("peer", ["repdistiller", "mdistiller"])
def test_sp(golden: Path, peer: str) -> None:
    compare(load(golden, "sp"), f"D16.{peer}", "D16", sp)


def golden_crd(data: dict[str, Tensor]) -> CRD:
    sizes = (int(data[f"hp_{name}"]) for name in ("s_dim", "t_dim", "n_data", "feat_dim", "nce_k"))
    crd = CRD(*sizes, temperature=float(data["hp_nce_t"]), momentum=float(data["hp_nce_m"]))
    crd = crd.double()
    weights = {
        "student_embedding.weight": data["in_Ws"],
        "student_embedding.bias": data["in_bs"],
        "teacher_embedding.weight": data["in_Wt"],
        "teacher_embedding.bias": data["in_bt"],
        "student_memory": data["in_mem1"],
        "teacher_memory": data["in_mem2"],
    }
    crd.load_state_dict(crd.state_dict() | weights)
    return crd


def test_crd(golden: Path) -> None:
    data = load(golden, "crd")
    crd = golden_crd(data)
    for step in ("step0", "step1"):
        student = data[f"in_{step}_student"].clone().requires_grad_()
        negatives = data[f"in_{step}_contrast_idx"][:, 1:]  # the positives come first
        crd.zero_grad()
        loss = crd(student, data[f"in_{step}_teacher"], data[f"in_{step}_index"], negatives)
        loss.backward()
        key = f"{step}.repdistiller"
        close(loss.detach(), data[f"{key}.loss_f64"])
        close(student.grad, data[f"{key}.grad_s_f64"])
        close(crd.student_embedding.weight.grad, data[f"{key}.grad_Ws_f64"])
        close(crd.teacher_embedding.weight.grad, data[f"{key}.grad_Wt_f64"])
        close(crd.log_z.exp(), torch.stack([data[f"{key}.Z_v1_f64"], data[f"{key}.Z_v2_f64"]]))
        close(crd.student_memory, data[f"{key}.memory_v1_f64"])
        close(crd.teacher_memory, data[f"{key}.memory_v2_f64"])
