"""``run.json``: what a run was asked, and how far each of its stages is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantspectrum.artifacts import RunRecord, StageState, read_artifact, write_artifact
from quantspectrum.errors import UserError, in_one_line
from quantspectrum.models.loading import pick_device
from quantspectrum.provenance import Stopwatch, environment, reset_peak_memory
from quantspectrum.run.request import RunRequest

__all__ = ["RunStates", "Stopped", "variants_written"]


class Stopped(Exception):  # noqa: N818 - not an error: what was measured is written
    """The run was interrupted; its directory holds what was done, and running again goes on."""


class RunStates:
    """The record of a run, on disk after every change.

    Args:
        directory: Where the run is; made when it is not there.
        request: What is asked.
        say: Told the name of each stage before it starts.
    """

    def __init__(self, directory: Path, request: RunRequest, *, say: Callable[[str], None]) -> None:
        """Start a run, or take up the one that is there.

        Raises:
            UserError: The directory holds a run that was asked something else, or other things.
        """
        self._path = directory / "run.json"
        self._request = request
        self._say = say
        self._record = self._open(directory)

    def _open(self, directory: Path) -> RunRecord:
        request = self._request
        asked = request.options()
        if self._path.exists():
            record = read_artifact(self._path, RunRecord)
            # A run from before an option was there was asked what the option's default is.
            held = RunRequest(model=request.model).options() | record.request
            changed = sorted(k for k in asked if held.get(k) != asked[k])
            if changed and _holds_work(directory, record):
                raise UserError(
                    f"{directory} holds a run with another {', '.join(changed)}; choose another "
                    "--out, or ask the same to go on with it"
                )
            if not changed:
                return record
        elif directory.exists() and not directory.is_dir():
            raise UserError(f"{directory} is a file; choose another --out, a directory")
        elif directory.exists() and any(directory.iterdir()):
            raise UserError(f"{directory} is not empty and holds no run; choose another --out")
        record = RunRecord(
            request=asked,
            stages={name: StageState(state="pending") for name in request.stage_names()},
            environment=environment(pick_device(request.device)),
        )
        write_artifact(self._path, record)
        return record

    def __contains__(self, name: str) -> bool:
        """Whether the run has such a stage; one from before the stage was there has not."""
        return name in self._record.stages

    def do(self, name: str, work: Callable[[], Any]) -> None:
        """Do a stage that is not done yet, and note how it went.

        Raises:
            Stopped: Interrupted.
        """
        if self._record.stages[name].state == "done":
            return
        self._say(name)
        device = pick_device(self._request.device)
        reset_peak_memory(device)
        watch = Stopwatch(device)
        self._mark(name, StageState(state="running"))
        try:
            work()
        except (Exception, KeyboardInterrupt, Stopped) as error:
            told = in_one_line(error, 1000) or type(error).__name__
            self._mark(name, StageState(state="failed", wall_s=watch.wall_s, error=told))
            if isinstance(error, KeyboardInterrupt):
                raise Stopped(f"interrupted in stage {name}") from None
            raise
        self._mark(
            name,
            StageState(
                state="done", wall_s=watch.wall_s, peak_device_bytes=watch.peak_device_bytes
            ),
        )

    def skip(self, name: str) -> None:
        """Note a stage, if the run has it, as done: there is nothing to do."""
        if name in self and self._record.stages[name].state != "done":
            self._mark(name, StageState(state="done", wall_s=0.0))

    def _mark(self, name: str, state: StageState) -> None:
        changed = self._record.stages | {name: state}
        self._record = self._record.model_copy(update={"stages": changed})
        write_artifact(self._path, self._record)


def variants_written(directory: Path) -> bool:
    """Whether a directory holds a run that has nothing left to quantize."""
    path = directory / "run.json"
    if not path.exists():
        return False
    stages = read_artifact(path, RunRecord).stages
    return all(s.state == "done" for name, s in stages.items() if name.startswith("quantize:"))


def _holds_work(directory: Path, record: RunRecord) -> bool:
    """Whether a run got anywhere: one that failed on its first look at the data did not."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    done = any(state.state == "done" for state in record.stages.values())
    return done or files != [directory / "run.json"]
