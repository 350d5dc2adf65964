"""A loss of your own in a training loop of your own: no config, no Trainer, no command line."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntdh_bench import datamodules, divergence, masks, models
from ntdh_bench.batch import PairedBatch
from ntdh_bench.distillers import functional

# -- data and networks ---------------------------------------------------------------------------

# Two views of one problem that share half of their decisive features.
data = datamodules.SyntheticDataModule(gap=0.5, n_samples=2000, batch_size=200)
data.setup("fit")
# A batch is a dict: teacher and student (B, 50), target (B,), index (B,).
test = next(iter(data.batches("test", batch_size=800)))


def network() -> nn.Module:
    """Return one of 50 features and 4 classes; any ``nn.Module`` that returns logits will do."""
    return models.MLPClassifier(50, [16, 16], 4, "relu")


def train(student: nn.Module, loss: Callable[[PairedBatch], Tensor], epochs: int = 30) -> None:
    """Train a network on a loss of the batch."""
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    for _ in range(epochs):
        for batch in data.batches("train"):
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()


# -- teacher, and the student without it ---------------------------------------------------------

torch.manual_seed(0)
teacher, alone = network(), network()
train(teacher, lambda batch: F.cross_entropy(teacher(batch["teacher"]), batch["target"]))
teacher.requires_grad_(False)
train(alone, lambda batch: F.cross_entropy(alone(batch["student"]), batch["target"]))

# -- a loss of your own, beside one of the suite's -----------------------------------------------


def ranking(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how far the student's order of the classes is from the teacher's: a hinge on pairs."""
    ours, theirs = (x[:, :, None] - x[:, None, :] for x in (student, teacher))
    return F.relu(1 - ours * theirs.sign()).mean()


def distilled(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> nn.Module:
    """Return a student of the teacher, trained on the cross entropy and ``loss``."""
    torch.manual_seed(1)
    student = network()

    def total(batch: PairedBatch) -> Tensor:
        logits, target = student(batch["student"]), batch["target"]
        return F.cross_entropy(logits, target) + loss(logits, teacher(batch["teacher"]), target)

    train(student, total)
    return student


students = {
    "alone": alone,
    "dkd": distilled(lambda ours, theirs, target: functional.dkd(ours, theirs, target, beta=2.0)),
    "ranking": distilled(lambda ours, theirs, _: 0.1 * ranking(ours, theirs)),
}

# -- what the hypothesis is about ----------------------------------------------------------------

# How far teacher and student are apart over the classes that are not the target, in [0, ln 2].
for name, student in students.items():
    with torch.no_grad():
        logits = student(test["student"])
        apart = divergence.ncjsd(logits, teacher(test["teacher"]), test["target"]).mean()
    right = (logits.argmax(dim=1) == test["target"]).float().mean()
    print(f"{name:8} accuracy {right:.3f}, NCJSD {apart:.4f}")

# Which of the teacher's inputs contribute to that (Algorithm 1): positive ones diverge.
saliency = masks.FeatureSaliency("input", permutations=3).compute(
    teacher, alone, data.batches("train")
)
worst = saliency.values.topk(5).indices.tolist()
print(f"NCJSD {saliency.unmasked:.4f}; the inputs that contribute most: {worst}")

# And which rows of a batch would be left of the distillation term (Algorithm 2).
mask = masks.SampleMask(ratio=0.25)
kept = mask.keep_rows(
    teacher(test["teacher"]), alone(test["student"]), test["target"], epoch=0, batch_idx=0
)
print(f"{len(kept)} of {len(test['target'])} rows are distilled")
