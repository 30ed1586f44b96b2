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


# What TensorFlow's messages of failed operations have beside the reason
_NO_REASON = re.compile(
    r"Graph execution error|Detected at node|={9,}|([A-Z_]+: )?From /job:|\d+ root error|File \"|Node: "
)


def cause(error: BaseException) -> str:
    """Return what an error says, in one line: of TensorFlow's, whose first line names no reason, the reason."""
    text = str(error).strip() or repr(error)
    if _NO_REASON.match(text):
        # The stack of the operation's definition, its name, which task says so, and the reason, or several.
        after = re.split(r"^Node: .*$", text.partition("\nOriginal stack trace")[0], flags=re.MULTILINE)[-1]
        lines = (re.sub(r"^ *\(\d+\) \w+: *", "", line).strip() for line in after.splitlines())
        return next((line for line in lines if line and not _NO_REASON.match(line)), text.splitlines()[0])
    return text.splitlines()[0]
