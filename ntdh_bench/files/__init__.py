"""Reading files that cannot be trusted: one opener for each format, used everywhere.

Sizes are checked before memory is allocated, nothing in a file is executed, and whatever is wrong
with one becomes a :class:`~ntdh_bench.errors.FileError`: one line that names the file and what to
do, and quotes nothing of its content. Imports no torch; checkpoints are read by
:mod:`ntdh_bench.checkpoints`, tar archives unpacked by :mod:`ntdh_bench.downloads`. Import from the
modules: what commands without data need shall not load the libraries of images and arrays.
"""
