"""Progress on stderr: one line a stage, a bar with rate and time left for a scan."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from tqdm.std import tqdm

__all__ = ["Reporter", "silence_other_bars"]


def silence_other_bars() -> None:
    """Turn off the progress bars of the libraries underneath, which would bury ours.

    For the command line's own process: some of them ask for their bars whatever the settings say.
    """
    draw = tqdm.__init__

    def disabled(self: tqdm[Any], *args: Any, **kwargs: Any) -> None:
        draw(self, *args, **kwargs | {"disable": True})

    tqdm.__init__ = disabled


class _Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        """Empty until there is something to say."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


class Reporter:
    """Says what is going on, unless it is to be quiet."""

    def __init__(self, quiet: bool) -> None:
        """Write to stderr, never to stdout."""
        self._quiet = quiet
        self._console = Console(file=sys.stderr, highlight=False)

    def say(self, text: str) -> None:
        """Print a line."""
        if not self._quiet:
            self._console.print(text, markup=False)

    def progress(self, title: str, steps: int) -> Callable[[], None]:
        """Show a bar of that many steps; what is returned is called after each.

        No steps, no bar.
        """
        if self._quiet or not steps:
            return lambda: None
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        task = bar.add_task(title, total=steps)
        bar.start()
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            bar.advance(task)
            if done >= steps:
                bar.stop()

        return step
