from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ntdh_bench.layers import LOGITS
from ntdh_bench.teacher_outputs import TeacherOutputs
from tests.helpers import FEATURES, small_data


@pytest.mark.parametrize(
    ("limits", "samples_run"),
    [({}, 80), ({"limit_bytes": 0}, 80), ({"limit_bytes": 0, "disk_limit_bytes": 99}, 32 + 2 * 32)],
)
def test_outputs_are_kept_where_there_is_room(limits: dict[str, int], samples_run: int) -> None:
    """In memory, in a file, or not at all: then the network runs for every batch."""
    data: Any = small_data(test_fraction=0.2)
    teacher = nn.Linear(FEATURES, 4)
    seen: list[int] = []
    teacher.register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    outputs = TeacherOutputs(teacher, [], [], data, torch.device("cpu"), **limits)
    batch = next(data.batches("test", batch_size=32))
    found = [outputs(batch, "test")[LOGITS] for _ in range(2)]
    assert sum(seen) == samples_run
    for logits in found:
        torch.testing.assert_close(logits, teacher(batch["teacher"]).detach())
    outputs.close()
