"""Running a script of ``workers/`` in another environment: a request in, a result out, both files.

In a directory of its own a worker finds ``request.json`` and, where tensors go with it,
``tensors.safetensors``; it writes ``result.json``. A worker that can be stopped early writes what it
has from time to time, each time as a whole; what stopped it then stands in ``stopped_by``. Lines ``@progress DONE TOTAL`` on its standard output
move a progress bar; everything else it prints goes to ``worker.log``.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from quantspectrum.errors import UserError
from quantspectrum.isolation.environments import require_environment

__all__ = ["WORKERS", "WorkerError", "run_worker"]

WORKERS = Path(__file__).parent / "workers"

GRACE_SECONDS = 30.0
"""How long a worker that was asked to stop may take to write what it has."""

_PROGRESS = re.compile(r"@progress (\d+) (\d+)")


class WorkerError(UserError):
    """A worker ended without a result; the message holds the last line it printed."""


def run_worker(
    environment: str,
    worker: str,
    request: Mapping[str, Any],
    directory: Path,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    timeout: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    keep_interrupted: bool = False,
) -> dict[str, Any]:
    """Run a worker; returns what it wrote to ``result.json``.

    Args:
        environment: Name of the environment, see :data:`environments.ENVIRONMENTS`.
        worker: Name of the script in ``workers/``, without ``.py``.
        request: What it is asked, written to ``request.json``.
        directory: Existing directory that it runs in.
        tensors: Tensors that go with the request.
        timeout: Seconds after which it is interrupted; what it had written then counts, with
            ``stopped_by`` ``time budget``.
        progress: Told steps done and steps in all.
        keep_interrupted: What it had written counts when this process is interrupted, too, with
            ``stopped_by`` ``interrupted``.

    Raises:
        UserError: The environment is absent.
        WorkerError: The worker wrote no result.
        KeyboardInterrupt: Passed on, after the worker was stopped, unless something is kept.
    """
    from safetensors.torch import save_file

    python = require_environment(environment)
    (directory / "request.json").write_text(json.dumps(request, indent=1), encoding="utf-8")
    if tensors is not None:
        # Two names may hold one tensor, which safetensors refuses.
        kept = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        save_file(kept, directory / "tensors.safetensors")
    result = directory / "result.json"
    result.unlink(missing_ok=True)
    script = (WORKERS / f"{worker}.py").resolve()
    assert script.is_file(), f"no worker {worker!r}"
    log = directory / "worker.log"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [str(python), str(script)],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            # What of this program is importable here must not be so there, and Ctrl-C is passed on below.
            env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
            | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        stopped_by = _wait(process, stream, timeout, progress)
    if stopped_by == "interrupted" and not (keep_interrupted and result.is_file()):
        raise KeyboardInterrupt
    if not result.is_file():
        raise WorkerError(
            f"{environment}: {worker} wrote no result (exit {process.returncode}): {_last(log)}"
        )
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found if stopped_by is None else found | {"stopped_by": stopped_by}


def _wait(
    process: subprocess.Popen[str],
    log: IO[str],
    timeout: float | None,
    progress: Callable[[int, int], None] | None,
) -> str | None:
    """Wait for the worker, and stop it where it has to be; returns what it was stopped by."""
    reader = threading.Thread(target=_read, args=(process, log, progress), daemon=True)
    reader.start()
    deadline = None if timeout is None else time.monotonic() + timeout
    stopped_by = None
    try:
        while process.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                stopped_by = "time budget"
                _stop(process)
            time.sleep(0.05)
    except KeyboardInterrupt:
        stopped_by = "interrupted"
    finally:
        if process.poll() is None:
            _stop(process)
        reader.join()
    return stopped_by


def _stop(process: subprocess.Popen[str]) -> None:
    """Interrupt the worker and all it started, and kill what does not heed it, or at a second Ctrl-C."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(
    process: subprocess.Popen[str], log: IO[str], progress: Callable[[int, int], None] | None
) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if found := _PROGRESS.fullmatch(line.strip()):
            if progress is not None:
                progress(int(found[1]), int(found[2]))
        else:
            log.write(line)
            # What is written to the same file elsewhere (stderr) keeps its order.
            log.flush()


def _last(log: Path) -> str:
    lines = [
        line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line
    ]
    return lines[-1][:500] if lines else "it printed nothing"
