"""One record per run: what was run, on what, and what came out; and one row per record in a CSV.

``fit`` writes records as JSON (``files``); ``collecting`` gathers those of an experiment into
``results/records/<experiment>.csv``, whose columns ``results/README.md`` describes. Nothing here
imports torch but ``identity.environment``, when it is called.
"""
