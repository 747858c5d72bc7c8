"""Workers: a request in, a result out, in another process; what stops them loses nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from quantspectrum.errors import UserError
from quantspectrum.isolation import WorkerError, run_worker, worker

Write = Callable[[str], str]

READ = "from _exchange import progress, read_request, read_tensors, write_result\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Makes a worker of a text, to be run by this interpreter."""
    scripts = tmp_path / "workers"
    scripts.mkdir()
    (scripts / "_exchange.py").write_text((worker.WORKERS / "_exchange.py").read_text())
    monkeypatch.setattr(worker, "WORKERS", scripts)
    monkeypatch.setenv("QUANTSPECTRUM_ENV_INC", sys.executable)

    def written(text: str) -> str:
        (scripts / "one.py").write_text(READ + text)
        return "one"

    return written


def test_a_request_comes_back_as_a_result(write: Write, tmp_path: Path) -> None:
    name = write(
        "print('chatter')\nprogress(1, 2)\n"
        "write_result({'twice': 2 * read_request()['n'], 'sum': float(read_tensors()['x'].sum())})\n"
    )
    steps: list[tuple[int, int]] = []
    found = run_worker(
        "inc",
        name,
        {"n": 21},
        tmp_path,
        tensors={"x": torch.arange(4.0).view(2, 2).t()},
        progress=lambda done, total: steps.append((done, total)),
    )
    assert found == {"twice": 42, "sum": 6.0}
    assert steps == [(1, 2)]
    assert "chatter" in (tmp_path / "worker.log").read_text()


def test_this_programs_path_is_not_seen(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    name = write("import os\nwrite_result({'path': os.environ.get('PYTHONPATH')})\n")
    assert run_worker("inc", name, {}, tmp_path) == {"path": None}


def test_a_failure_is_one_sentence_with_the_last_line(write: Write, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")  # Of an earlier call: not to be taken for its own.
    name = write("raise RuntimeError('no such scheme')\n")
    with pytest.raises(WorkerError, match=r"exit 1.*RuntimeError: no such scheme"):
        run_worker("inc", name, {}, tmp_path)


def test_what_was_written_before_the_time_was_up_counts(write: Write, tmp_path: Path) -> None:
    name = write("import time\nwrite_result({'partial': True})\ntime.sleep(60)\n")
    start = time.monotonic()
    found = run_worker("inc", name, {}, tmp_path, timeout=2)
    assert found == {"partial": True, "stopped_by": "time budget"}
    assert time.monotonic() - start < 30


def _interrupt_when(reached: Callable[[], bool]) -> None:
    """Ctrl-C for this process as soon as something is so."""

    def wait() -> None:
        end = time.monotonic() + 60
        while not reached() and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def test_what_was_written_before_an_interrupt_is_kept_where_asked(
    write: Write, tmp_path: Path
) -> None:
    name = write("import time\nwrite_result({'partial': True})\ntime.sleep(60)\n")
    result = tmp_path / "result.json"
    _interrupt_when(result.is_file)
    found = run_worker("inc", name, {}, tmp_path, keep_interrupted=True)
    assert found == {"partial": True, "stopped_by": "interrupted"}
    result.unlink()
    _interrupt_when(result.is_file)
    with pytest.raises(KeyboardInterrupt):
        run_worker("inc", name, {}, tmp_path)


def test_an_interrupt_before_anything_was_written_is_passed_on(
    write: Write, tmp_path: Path
) -> None:
    name = write("import time\nopen('begun', 'w').close()\ntime.sleep(60)\n")
    _interrupt_when((tmp_path / "begun").is_file)
    with pytest.raises(KeyboardInterrupt):
        run_worker("inc", name, {}, tmp_path, keep_interrupted=True)


def test_a_worker_may_end_its_step_first(write: Write, tmp_path: Path) -> None:
    name = write(
        "import time\nfrom _exchange import Budget\nbudget = Budget(None, until_interrupted=True)\n"
        "open('begun', 'w').close()\n"
        "while not budget.over:\n    time.sleep(0.01)\n"
        "write_result({'whole': True, 'stopped_by': 'time budget'})\n"
    )
    _interrupt_when((tmp_path / "begun").is_file)
    found = run_worker("inc", name, {}, tmp_path, keep_interrupted=True)
    assert found == {"whole": True, "stopped_by": "interrupted"}


def test_a_worker_that_does_not_heed_is_killed(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "GRACE_SECONDS", 0.5)
    name = write(
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)\n"
    )
    with pytest.raises(WorkerError, match="exit -9"):
        run_worker("inc", name, {}, tmp_path, timeout=2)


def test_an_absent_environment_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QUANTSPECTRUM_ENV_INC", raising=False)
    monkeypatch.setenv("QUANTSPECTRUM_HOME", str(tmp_path))
    with pytest.raises(UserError, match="quantspectrum doctor --install inc"):
        run_worker("inc", "one", {}, tmp_path)
