from __future__ import annotations

from ntdh_bench.people.plugin import PEOPLE, people_table
from ntdh_bench.records.columns import blank_row


def test_people_are_shown_beside_networks() -> None:
    blank = blank_row() | {"dataset": "ravdess", "mask": None, "cell": {}, "measure": "accuracy"}
    rows = [
        blank | {"arm": "without_kd", "seed": seed, "last_test_ncjsd": 0.1 + seed / 100,
                 "last_test_score": 0.4, "last_test_teacher_score": 0.6, "last_test_tcjsd": 0.2}
        for seed in range(3)
    ]  # fmt: skip
    [table] = people_table(rows)
    assert [line.labels[0] for line in table.lines] == [
        "people, voice and face", "people, voice and both", "people, face and both",
        "networks, w/o KD, speech and face",
    ]  # fmt: skip
    names = [column.full for column in table.columns]
    people, networks = table.lines[0].cells, table.lines[-1].cells
    at = names.index("NCJSD")
    assert people[at] is not None
    assert people[at].ours == "0.095 ± 0.003"
    assert networks[at] is not None
    assert networks[at].ours.startswith("0.110 ± ")
    assert networks[names.index("NCJSD of people, by chance")] is None
    assert [exhibit.name for exhibit in PEOPLE.exhibits] == ["people"]


def test_people_are_shown_where_no_network_was_trained() -> None:
    [table] = people_table([])
    assert len(table.lines) == 3
