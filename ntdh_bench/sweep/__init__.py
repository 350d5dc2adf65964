"""Sweeps: the runs of an experiment, in worker processes or on a Ray cluster.

The driver (:mod:`.driver`) decides which runs are left, hands them to an engine (:mod:`.local` or
:mod:`.ray_engine`) and writes their records. It imports no torch: workers do, once each.
"""
