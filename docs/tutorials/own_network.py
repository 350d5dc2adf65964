"""A network of your own as the student: by its class, its layers tapped and compared by name."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

import ntdh_bench as nb
from ntdh_bench.distillers import RKD


class Residual(nn.Module):
    """Any ``nn.Module`` that returns logits (B, classes); arguments are plain values.

    Args:
        width: of the one layer whose output is added to its input.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Linear(50, width)
        self.block = nn.Sequential(nn.ReLU(), nn.Linear(width, width))
        self.features = nn.Identity()  # a name for what is compared
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.stem(x)
        logits: Tensor = self.head(self.features(x + self.block(x)))
        return logits


def main() -> None:
    """Distil the shipped config's teacher into it, by relations of its features."""
    result = nb.fit(
        "synthetic_converged",
        {
            "model.student_network": partial(Residual, width=12),
            # The teacher's MLP calls its last features hidden2.
            "model.distiller": partial(RKD, student_layer="features", teacher_layer="hidden2"),
            "data.n_samples": 1000,
            "data.steps_per_epoch": 5,
            "trainer.max_epochs": 5,
            "trainer.accelerator": "cpu",
            "trainer.enable_progress_bar": False,
        },
    )
    sizes = result.record["parameters"]
    print(f"teacher: {sizes['teacher']} parameters, student: {sizes['student']}")
    print(f"accuracy {result.metrics['accuracy']:.3f} of {result.metrics['teacher_accuracy']:.3f}")

    # The trained module: with the student's inputs it returns logits.
    with torch.no_grad():
        print(result.module(torch.zeros(2, 50)).softmax(dim=1))


if __name__ == "__main__":
    main()
