from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from ntdh_bench import plugins
from ntdh_bench.errors import UserError

GROUP = "ntdh_bench.datasets"


def test_own_entries_need_no_installation_and_are_not_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = (EntryPoint("theirs", "a:B", GROUP), EntryPoint("mnist", "a:B", GROUP))
    monkeypatch.setattr(plugins, "entry_points", lambda group: installed)
    found = plugins.registered(GROUP)
    assert list(found) == sorted(found)
    assert {"mnist", "nyuv2", "ravdess", "semantickitti", "theirs", "wiki"} <= found.keys()
    assert found["mnist"].value == "ntdh_bench.datamodules.catalog:MNIST"
    assert [entry.value for entry in plugins.registered("unknown").values()] == ["a:B", "a:B"]


@pytest.mark.parametrize("value", ["no_such_package:X", "ntdh_bench.errors:Nothing"])
def test_a_plugin_that_cannot_be_imported_is_one_line(value: str) -> None:
    with pytest.raises(UserError, match=f"cannot import the plugin {value}: .*mend or remove"):
        plugins.load(EntryPoint("x", value, GROUP))
