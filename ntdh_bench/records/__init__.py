"""One record per run: what was run, on what, and what came out; and one row per record in a CSV.

``fit`` writes records as JSON; :func:`collect` gathers those of an experiment into
``results/records/<experiment>.csv``, whose columns ``results/README.md`` describes. Nothing here
imports torch but :func:`environment`, when it is called.
"""

from ntdh_bench.records.collecting import (
    OUTDATED,
    collect,
    orphans,
    outdated_path,
    outdated_runs,
    record_path,
)
from ntdh_bench.records.columns import (
    CHECKPOINTS,
    COLUMNS,
    METRICS,
    SETTINGS,
    SPLITS,
    RecordError,
    Row,
    blank_row,
    own_metrics,
)
from ntdh_bench.records.csvs import Collected
from ntdh_bench.records.details import details_path, read_details
from ntdh_bench.records.files import (
    SCHEMA,
    check_record,
    find_without_kd,
    read_record,
    read_records,
    read_run,
    write_record,
)
from ntdh_bench.records.identity import (
    Place,
    arm,
    baseline_hash,
    config_hash,
    environment,
    place,
    place_of,
    threads,
)
from ntdh_bench.records.rows import (
    conflicts,
    csv_path,
    differing,
    experiment_csvs,
    read_rows,
    to_row,
    write_rows,
)
from ntdh_bench.records.upgrading import upgrade

__all__ = [
    "CHECKPOINTS", "COLUMNS", "METRICS", "OUTDATED", "SCHEMA", "SETTINGS", "SPLITS", "Collected",
    "Place", "RecordError", "Row", "arm", "baseline_hash", "blank_row", "check_record", "collect",
    "config_hash", "conflicts", "csv_path", "details_path", "differing",
    "environment", "experiment_csvs",
    "find_without_kd", "orphans", "outdated_path", "outdated_runs", "own_metrics", "place",
    "place_of", "read_details", "read_record", "read_records", "read_rows", "read_run",
    "record_path", "threads", "to_row", "upgrade", "write_record", "write_rows",
]  # fmt: skip
