"""Two modalities of your own in one ``.npz``: a teacher, two students and the gain."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import ntdh_bench as nb

# Yours: an array (N, ...) a modality, and the classes (N,). Here: 600 signs of 6 kinds, felt by 30
# sensors on the arm and 12 on the wrist, by 10 people. `split` and `group` are optional.
random = np.random.default_rng(0)
kind = np.resize(np.arange(6), 600)
hidden = random.normal(size=(6, 8))[kind] + 0.8 * random.normal(size=(600, 8))
np.savez(
    "signs.npz",
    arm=hidden @ random.normal(size=(8, 30)) + 0.5 * random.normal(size=(600, 30)),
    wrist=hidden[:, :3] @ random.normal(size=(3, 12)) + 0.5 * random.normal(size=(600, 12)),
    label=np.array(["hello", "thanks", "please", "yes", "no", "more"])[kind],
    group=np.repeat(np.arange(10), 60),  # people: those who are tested are not trained on
)

# The shipped config `pairs_kd`, with your arrays and the sizes of two networks for them.
signs = {
    "model": {
        "init_args": {
            "teacher_network": {"init_args": {"in_features": 30, "num_classes": 6}},
            "student_network": {"init_args": {"in_features": 12, "num_classes": 6}},
        }
    },
    "data": {
        "init_args": {"file": "signs.npz", "teacher": "arm", "student": "wrist", "target": "label"}
    },
}
flags = {
    "trainer.max_epochs": 10,
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": False,
}

# The control first: the same student, seed and batches, without a teacher.
control = nb.fit(["pairs_kd", signs, "overlays/without_kd"], flags)
results = {
    "kd": nb.fit(["pairs_kd", signs], flags),
    "dkd": nb.fit(["pairs_kd", signs, "methods/dkd"], flags),
}

print(f"teacher {control.metrics['teacher_accuracy']:.3f}")
print(f"student {control.metrics['accuracy']:.3f}, NCJSD {control.metrics['ncjsd']:.4f}")
for name, result in results.items():
    gain = 100 * result.gains["without_kd"]
    print(f"{name:7} {result.metrics['accuracy']:.3f}, {gain:+.1f} points: {result.folder}")

assert Path(results["kd"].folder, "record.json").is_file()
