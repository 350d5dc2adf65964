"""Errors a user can cause."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: one line naming what is wrong, what was expected, what to do.

    The command line prints it without a traceback and exits with status 1.
    """
