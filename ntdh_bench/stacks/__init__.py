"""Stacks: many members of one network pair trained as one.

A stack holds the parameters of its K members as ``(K, ...)`` and runs them in one batched pass.
:mod:`.layers` and :mod:`.networks` are the batched forms; :mod:`.plan`, which imports no torch,
says which runs share a stack.
"""
