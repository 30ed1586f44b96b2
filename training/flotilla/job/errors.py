"""What can go wrong in staging and storing, and the exit code that tells systemd whether to try again."""

from __future__ import annotations

import re


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


def cause(error: BaseException) -> str:
    """Return what an error says, in one line: of TensorFlow's, whose first line names no reason, the reason."""
    text = str(error).strip() or repr(error)
    if text.startswith("Graph execution error"):
        text = text.partition("\nOriginal stack trace")[0]
        # The stack of the operation's definition, its name, the reason: alone, or the first of several.
        reason = re.search(r"^ *\(0\) \w+: +(.+)", text, re.MULTILINE) or re.search(
            r"^Node: .*\n(.+)", text, re.MULTILINE
        )
        if reason:
            return reason[1].strip()
    return text.splitlines()[0]
