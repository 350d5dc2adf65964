"""The paper as a plug-in of the report: entry point ``ntdh`` of the group ``ntdh_bench.papers``."""

from __future__ import annotations

from ntdh_bench.paper import printed
from ntdh_bench.paper.claims import CLAIMS, HYPOTHESISED, UNTESTED
from ntdh_bench.paper.exhibits import EXHIBITS
from ntdh_bench.report.papers import Paper

NTDH = Paper(printed.source(), EXHIBITS, CLAIMS, UNTESTED, HYPOTHESISED, printed.as_rows)
