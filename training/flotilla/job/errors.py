"""What can go wrong in staging and storing, and the exit code that tells systemd whether to try again."""

from __future__ import annotations


class ProgramError(Exception):
    """One sentence: what, where, what to do."""

    code = 1


class BadInput(ProgramError):
    """What the user gave can't work; trying again doesn't help."""

    code = 2


class Denied(BadInput):
    """S3 or HDFS refuses this user; a permission has to be given first."""


class Mismatch(ProgramError):
    """Data differ from what their manifest says."""

    code = 3


class Temporary(ProgramError):
    """A service failed although it was asked several times; it may work later."""

    code = 75
