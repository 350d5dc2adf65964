"""What trains and measures one config: the commands, sweeps and Python users call it.

::

    from ntdh_bench import runs
    from ntdh_bench.composition import find_config, read_config

    run = runs.Run.parse("fit", config=read_config(find_config("quickstart")))
    record = runs.fit(run)  # in a new folder of runs/, as `ntdh-bench fit` does
    record["metrics"]["last"]["test"]["accuracy"]

    trained = runs.Run.parse("test", ["--ckpt_path", str(run.last_checkpoint)])
    runs.measure(trained)["accuracy"]  # the same
"""

from .fitting import fit
from .measuring import measure, predict
from .run import Run
from .saliency import map_divergence

__all__ = ["Run", "fit", "map_divergence", "measure", "predict"]
