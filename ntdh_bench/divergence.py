"""Divergences between teacher and student, split into the target class and all other classes.

Every function works in log space and drops the target column instead of masking it, so that values
and gradients stay finite for logits up to 1e4 in float32. Half precision is promoted to float32,
float64 stays float64. Equation numbers are those of the NTDH paper.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ntdh_bench.errors import UserError

LN2 = math.log(2.0)
_LN2_FLOAT32 = 0.6931471228599548  # the largest float32 that does not exceed ln 2


class TargetError(UserError, ValueError):
    """A target outside ``[0, C)``."""


def promote(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring tensors to one floating type of at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def target_nontarget(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split the softmax of ``logits`` into the target class and the distribution of the others.

    Args:
        logits: ``(N, C)`` with C >= 2, or ``(K, N, C)``.
        target: int64 ``(N,)`` in ``[0, C)``, or ``(K, N)``.

    Returns:
        ``log p_k`` and ``log(1 - p_k)``, both of the shape of the targets, and ``log p_hat``
        ``(..., C-1)``: the log-probabilities of the non-target classes, renormalised without the
        target (Eq. 6), in the order of their labels.

    Raises:
        ValueError: shapes do not fit.
        TargetError: a target outside ``[0, C)`` (checked on every device, on GPUs without waiting).

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0]])
        >>> log_p, log_rest, log_others = target_nontarget(logits, torch.tensor([0]))
        >>> bool((log_p.exp() + log_rest.exp()).isclose(torch.ones(1)))
        True
        >>> log_others.exp()
        tensor([[0.5000, 0.5000]])
    """
    check_targets(logits, target)
    return _split(promote(logits)[0], target.long())


class Comparison:
    """Teacher a and student b on the same samples; softmax is computed once for all divergences.

    With a dimension for K members before the rows, the results are ``(K, N)``.

    Args:
        logits_a: teacher ``(N, C)`` or ``(K, N, C)``.
        logits_b: student, the same shape.
        target: int64 ``(N,)`` or ``(K, N)``.

    Raises:
        ValueError: shapes do not fit, or a target outside ``[0, C)``.
    """

    def __init__(self, logits_a: Tensor, logits_b: Tensor, target: Tensor) -> None:
        _check_same_shape(logits_a, logits_b)
        check_targets(logits_a, target)
        self._logits = promote(logits_a, logits_b)
        splits = (_split(logits, target.long()) for logits in self._logits)
        self._target, self._rest, self._others = map(_Terms, *splits)

    def kl(self) -> Tensor:
        """Return :func:`kl`, ``(N,)``."""
        return kl(*self._logits)

    def tckl(self, binary: bool = False) -> Tensor:
        """Return :func:`tckl`, ``(N,)``."""
        value = self._target.kl()
        return _bounded(value + self._rest.kl(), math.inf) if binary else value

    def nckl(self) -> Tensor:
        """Return :func:`nckl`, ``(N,)``."""
        return _bounded(self._others.kl().sum(dim=-1), math.inf)

    def tcjsd(self, binary: bool = False) -> Tensor:
        """Return :func:`tcjsd`, ``(N,)``."""
        value = self._target.js()
        return _bounded(value + self._rest.js() if binary else value, LN2)

    def ncjsd(self) -> Tensor:
        """Return :func:`ncjsd`, ``(N,)``."""
        return _bounded(self._others.js().sum(dim=-1), LN2)


def kl(logits_a: Tensor, logits_b: Tensor) -> Tensor:
    """KL divergence from teacher a to student b over all classes (Eq. 16), per sample.

    It equals ``tckl(binary=True) + (1 - p_k^a) * nckl``, so their plain sum bounds it (Eq. 17, 18).

    Args:
        logits_a: teacher ``(N, C)``.
        logits_b: student ``(N, C)``.

    Returns:
        ``(N,)`` in nats, >= 0.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
        >>> student = torch.tensor([[1.0, 0.0, 2.0]])
        >>> round(kl(teacher, student).item(), 4)
        0.9555
    """
    _check_same_shape(logits_a, logits_b)
    logits_a, logits_b = promote(logits_a, logits_b)
    terms = _Terms(logits_a.log_softmax(dim=-1), logits_b.log_softmax(dim=-1))
    return _bounded(terms.kl().sum(dim=-1), math.inf)


def tckl(logits_a: Tensor, logits_b: Tensor, target: Tensor, binary: bool = False) -> Tensor:
    """Target-class KL divergence from teacher a to student b, per sample.

    Eq. 19: ``p_k^a log(p_k^a / p_k^b)``, one term, which may be negative. ``binary=True`` adds the
    term of "any other class" and gives the KL divergence of the two-way distribution (>= 0), the
    TCKD of Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022.

    Args:
        logits_a: teacher ``(N, C)``.
        logits_b: student ``(N, C)``.
        target: int64 ``(N,)``.
        binary: whether to add the second term.

    Returns:
        ``(N,)`` in nats.

    Raises:
        ValueError: shapes do not fit, or a target outside ``[0, C)``.

    Example:
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
        >>> student = torch.tensor([[1.0, 0.0, 2.0]])
        >>> target = torch.tensor([0])
        >>> round(tckl(teacher, student, target).item(), 4)
        1.0444
        >>> round(tckl(teacher, student, target, binary=True).item(), 4)
        0.7983
    """
    return Comparison(logits_a, logits_b, target).tckl(binary)


def nckl(logits_a: Tensor, logits_b: Tensor, target: Tensor) -> Tensor:
    """Non-target KL divergence from teacher a to student b (Eq. 20), per sample.

    Args:
        logits_a: teacher ``(N, C)``.
        logits_b: student ``(N, C)``.
        target: int64 ``(N,)``.

    Returns:
        ``(N,)`` in nats, >= 0; 0 where C = 2, since one class is left.

    Raises:
        ValueError: shapes do not fit, or a target outside ``[0, C)``.

    Example:
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
        >>> student = torch.tensor([[1.0, 0.0, 2.0]])
        >>> target = torch.tensor([0])
        >>> round(nckl(teacher, student, target).item(), 4)
        1.0068
        >>> surer = student + torch.tensor([5.0, 0.0, 0.0])  # of the target: the others stay
        >>> bool(nckl(teacher, surer, target) == nckl(teacher, student, target))
        True
    """
    return Comparison(logits_a, logits_b, target).nckl()


def tcjsd(logits_a: Tensor, logits_b: Tensor, target: Tensor, binary: bool = False) -> Tensor:
    """Target-class Jensen-Shannon divergence, per sample.

    Eq. 5: the term of the target class. ``binary=True`` adds the term of "any other class" and
    gives the full divergence of the two-way distributions.

    Args:
        logits_a: teacher ``(N, C)``.
        logits_b: student ``(N, C)``.
        target: int64 ``(N,)``.
        binary: whether to add the second term.

    Returns:
        ``(N,)`` in nats, in [0, ln 2].

    Raises:
        ValueError: shapes do not fit, or a target outside ``[0, C)``.

    Example:
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
        >>> student = torch.tensor([[1.0, 0.0, 2.0]])
        >>> target = torch.tensor([0])
        >>> round(tcjsd(teacher, student, target).item(), 4)
        0.0872
        >>> round(tcjsd(teacher, student, target, binary=True).item(), 4)
        0.1943
    """
    return Comparison(logits_a, logits_b, target).tcjsd(binary)


def ncjsd(logits_a: Tensor, logits_b: Tensor, target: Tensor) -> Tensor:
    """Non-target Jensen-Shannon divergence (Eq. 6), per sample.

    Args:
        logits_a: teacher ``(N, C)``.
        logits_b: student ``(N, C)``.
        target: int64 ``(N,)``.

    Returns:
        ``(N,)`` in nats, in [0, ln 2]; 0 where C = 2, since one class is left.

    Raises:
        ValueError: shapes do not fit, or a target outside ``[0, C)``.

    Example:
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
        >>> student = torch.tensor([[1.0, 0.0, 2.0]])
        >>> target = torch.tensor([0])
        >>> round(ncjsd(teacher, student, target).item(), 4)
        0.2081
        >>> surer = teacher + torch.tensor([9.0, 0.0, 0.0])  # of the target: the others stay
        >>> ncjsd(teacher, surer, target)
        tensor([0.])
    """
    return Comparison(logits_a, logits_b, target).ncjsd()


def flatten_dense(logits: Tensor, target: Tensor, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """Turn the pixels or voxels of a dense task into rows, without the ignored ones.

    Args:
        logits: ``(N, C, *spatial)``; ``(N, C)`` works too.
        target: int64 ``(N, *spatial)``.
        ignore_index: target value to drop.

    Returns:
        Logits ``(M, C)`` and targets ``(M,)``, in the order of ``target.flatten()``.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> logits, target = torch.zeros(2, 5, 4, 4), torch.full((2, 4, 4), 255)
        >>> target[0, 0, :3] = 1
        >>> rows, labels = flatten_dense(logits, target)
        >>> rows.shape, labels
        (torch.Size([3, 5]), tensor([1, 1, 1]))
    """
    if logits.dim() < 2 or target.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit: "
            "expected (N, C, *spatial) and (N, *spatial)"
        )
    kept = (target != ignore_index).nonzero(as_tuple=True)  # once: a GPU is waited for
    return logits.movedim(1, -1)[kept], target[kept]


def nontarget_columns(target: Tensor, classes: int) -> Tensor:
    """Return the classes other than each of the targets ``(...)``, in order: ``(..., C - 1)``."""
    columns = torch.arange(classes - 1, device=target.device)
    return columns + (columns >= target[..., None])  # skips the target's column


def _split(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rest = logits.gather(-1, nontarget_columns(target, logits.shape[-1]))
    # log p_k as a log-sigmoid of the margin keeps the digits that 1 - p_k loses near 0 and 1.
    margin = logits.gather(-1, target[..., None]).squeeze(-1) - torch.logsumexp(rest, dim=-1)
    return F.logsigmoid(margin), F.logsigmoid(-margin), torch.log_softmax(rest, dim=-1)


class _Terms:
    """Terms of the divergences between log-probabilities; what both share is computed once."""

    def __init__(self, log_p: Tensor, log_q: Tensor) -> None:
        self._log_p, self._log_q = log_p, log_q

    @cached_property
    def _gap(self) -> Tensor:
        return self._log_p - self._log_q

    @cached_property
    def _p(self) -> Tensor:
        return self._log_p.exp()

    def kl(self) -> Tensor:
        return self._p * self._gap

    def js(self) -> Tensor:
        """Half of p log(p / m) + q log(q / m), where log(p / m) = ln 2 + log sigmoid(gap)."""
        p_term = self._p * (LN2 + F.logsigmoid(self._gap))
        return (p_term + self._log_q.exp() * (LN2 + F.logsigmoid(-self._gap))) / 2


def _bounded(value: Tensor, upper: float) -> Tensor:
    """Put rounding errors back into [0, upper] without touching the gradient."""
    if upper == LN2 and value.dtype == torch.float32:
        upper = _LN2_FLOAT32
    return value + (value.clamp(min=0.0, max=upper) - value).detach()


def _check_same_shape(logits_a: Tensor, logits_b: Tensor) -> None:
    if logits_a.shape != logits_b.shape:
        raise ValueError(
            f"logits of teacher {tuple(logits_a.shape)} and student {tuple(logits_b.shape)} differ"
        )


def check_targets(logits: Tensor, target: Tensor) -> None:
    """Raise a ValueError unless targets are classes of logits ``(N, C)`` or ``(K, N, C)``."""
    if logits.dim() not in (2, 3) or target.shape != logits.shape[:-1]:
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit: expected "
            "(N, C) and (N,), or (K, N, C) and (K, N); dense outputs go through flatten_dense first"
        )
    classes = logits.shape[-1]
    if classes < 2:
        raise ValueError(f"logits have {classes} column(s): divergences need at least 2 classes")
    if target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(f"target is {target.dtype}: expected class labels as int64")
    if target.device.type != "cpu":  # no waiting for the device: a bad target fails there
        torch._assert_async(((target >= 0) & (target < classes)).all())
        return
    if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < classes:
        raise TargetError(
            f"target has labels from {int(target.min())} to {int(target.max())}, but the logits "
            f"have {classes} classes (0 to {classes - 1}); drop ignored labels with flatten_dense"
        )
