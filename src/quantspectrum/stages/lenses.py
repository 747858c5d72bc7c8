"""The stage ``sensitivity`` with other lenses: same model, samples and candidates for all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from quantspectrum.artifacts import SensitivityReport, write_artifact, write_text
from quantspectrum.data.splits import identity
from quantspectrum.errors import UserError
from quantspectrum.formats import preset
from quantspectrum.lenses import lens_named
from quantspectrum.lenses.request import LensRequest
from quantspectrum.lenses.scoring import score_with
from quantspectrum.models.loading import Loaded
from quantspectrum.report import sensitivity_markdown
from quantspectrum.sensitivity.scan import Base
from quantspectrum.stages.requests import DataRequest, OpsRequest, Progress

__all__ = ["lens_paths", "lens_sensitivity", "parse_lens_options"]


def lens_paths(out: Path, lenses: Sequence[str]) -> dict[str, Path]:
    """For each lens its report's path: ``out``, or named after the lens beside it."""
    if len(lenses) == 1:
        return {lenses[0]: out}
    found = {lens: out.with_name(f"{out.stem}.{_file_name(lens)}{out.suffix}") for lens in lenses}
    if len(set(found.values())) < len(found):
        raise UserError("two of the lenses would write the same file; give them in two calls")
    return found


def _file_name(lens: str) -> str:
    kind, _, rest = lens.partition(":")
    return f"{kind}-{Path(rest).stem if kind == 'import' else rest}"


def parse_lens_options(texts: Sequence[str]) -> dict[str, str]:
    """Read settings written as ``NAME=VALUE``.

    Raises:
        UserError: A text is not of that form, or a name occurs twice.
    """
    options: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals) or name in options:
            raise UserError(f"--lens-option {text}: write NAME=VALUE, each name once")
        options[name] = value
    return options


def lens_sensitivity(
    loaded: Loaded,
    out: Path,
    *,
    lens: str,
    data: DataRequest,
    ops: OpsRequest,
    base: Base | None = None,
    format_name: str | None = None,
    max_ops: int | None = None,
    time_budget: float | None = None,
    confidence_batches: int | None = None,
    options: Mapping[str, str] | None = None,
    progress: Progress,
) -> SensitivityReport:
    """Score every op with one lens; write the report (JSON) and the same as Markdown beside it.

    Args:
        loaded: The model.
        out: The report to write, ``….json``.
        lens: Name of the lens.
        data: Which samples to use.
        ops: Which ops are candidates.
        base: What surrounds the op under test; ``None`` is the lens's own.
        format_name: Preset tried on every op; ``None`` is the lens's own, or ``w8a8``.
        max_ops: Score no more ops than this.
        time_budget: Seconds to score for.
        confidence_batches: Use the first so many batches only.
        options: Settings of the lens.
        progress: Given the number of steps, returns what is called after each.

    Raises:
        UserError: The lens is unknown or cannot do it; nothing is written then.
    """
    known = lens_named(lens)
    splits = data.splits(loaded.takes_images)
    calibration, selection = (
        data.encode(loaded, part) for part in (splits.calibration, splits.selection)
    )
    with _work_directory(out) as directory:
        request = LensRequest(
            format=preset(format_name or next(iter(known.FORMATS), "w8a8")),
            base=base or known.BASES[0],
            calibration=calibration,
            selection=selection[:confidence_batches],
            data=(
                identity(splits.calibration, splits.source, "calibration"),
                identity(splits.selection, splits.source, "selection"),
            ),
            seed=data.seed,
            directory=directory,
            max_ops=max_ops,
            time_budget=time_budget,
            options=options or {},
            progress=_steps(progress),
        )
        table = ops.table(loaded)
        report = score_with(lens, loaded, table, request)
    write_artifact(out, report)
    write_text(out.with_suffix(".md"), sensitivity_markdown(report))
    return report


@contextmanager
def _work_directory(out: Path) -> Iterator[Path]:
    """A directory for the lens's files; where the lens failed and left any, it stays for its log."""
    directory = out.with_name(f".{out.stem}.work")
    try:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write {directory}: {error.strerror or error}") from None
    try:
        yield directory
    except BaseException:
        if not any(path.is_file() for path in directory.rglob("*")):
            shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)


def _steps(progress: Progress) -> Callable[[int, int], None]:
    """From telling how far it is to one call a step."""
    state: dict[str, Callable[[], None]] = {}
    done_so_far = [0]

    def tell(done: int, total: int) -> None:
        step = state.setdefault("step", progress(total)) if not state else state["step"]
        while done_so_far[0] < done:
            done_so_far[0] += 1
            step()

    return tell
