"""``python -m ntdh_bench``: the same as the ``ntdh-bench`` command."""

from __future__ import annotations

import sys

from ntdh_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
