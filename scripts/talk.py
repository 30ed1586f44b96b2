"""What the data sets' commands say, and how they show that they are at work."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)


class UserError(Exception):
    """What went wrong and what to do, in one sentence."""


def say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
    )
