"""A budget over scored groups: what each format costs, and the best assignment within it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from quantspectrum.artifacts import CutTies, LatencyTable, ModelIdentity, Optimum
from quantspectrum.errors import UserError
from quantspectrum.spectrum.costs import model_bytes, op_bytes, storage_of
from quantspectrum.spectrum.groups import Group, Scored
from quantspectrum.spectrum.legality import HIGH
from quantspectrum.spectrum.program import Infeasible, Option, Solution, solve
from quantspectrum.spectrum.rules import Budget

__all__ = ["Assignment", "Problem", "assign"]

Cost = Callable[[Group, str], Fraction | None]
"""Cost of a group in a format (or :data:`HIGH`); ``None`` where it cannot be had."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What budgets are solved over.

    Attributes:
        scored: The groups and their scores in each format.
        fixed: Group name to the format it must have.
        model: The model, for the bytes of what is no candidate.
        latency: Times of the ops' linears, for budgets of latency.
    """

    scored: Scored
    fixed: Mapping[str, str]
    model: ModelIdentity
    latency: LatencyTable | None = None

    def formats_of(self, group: Group) -> list[str]:
        """The formats a group may have."""
        if group.name in self.fixed:
            return [self.fixed[group.name]]
        return [HIGH, *self.scored.formats]

    def bytes_of(self, group: Group, fmt: str) -> Fraction:
        """Bytes of a group's parameters in a format."""
        form = None if fmt == HIGH else self.scored.formats[fmt]
        return Fraction(sum(op_bytes(op, form, storage_of(self.model)) for op in group.ops))

    def damage_of(self, group: Group, fmt: str) -> Fraction:
        """Predicted damage as budgets count it: a score below zero, which is noise, is zero."""
        if fmt == HIGH:
            return Fraction(0)
        return max(Fraction(0), Fraction(self.scored.scores[fmt][group.name].score))


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a budget gives.

    Attributes:
        formats: Group name to format, :data:`HIGH` left out.
        rule: The rule in words and numbers.
        optimum: What was proved.
        ties: How firm the choice is.
    """

    formats: dict[str, str]
    rule: str
    optimum: Optimum
    ties: CutTies | None


@dataclass(frozen=True, kw_only=True)
class _Measure:
    """A budget's cost: of a group, of all that is no candidate, and how to say it."""

    cost: Cost
    rest: Fraction
    what: str
    say: Callable[[Fraction], str]
    note: str = ""


def assign(name: str, budget: Budget, problem: Problem) -> Assignment:
    """The assignment of least predicted damage within a budget of bytes, time or latency.

    Within a budget of damage it is the one of fewest weight bytes.

    Raises:
        UserError: No assignment is within the budget, or what it needs is missing.
    """
    measure = _measure(name, budget, problem)
    groups = problem.scored.groups
    whole = measure.rest + sum((_dear(measure, group) for group in groups), Fraction(0))
    limit = budget.limit if budget.limit is not None else (budget.share or 0) * whole
    value: Cost = problem.bytes_of if budget.kind == "damage" else problem.damage_of
    menu: list[list[Option]] = []
    names: list[list[str]] = []
    for group in groups:
        costs = [(fmt, measure.cost(group, fmt)) for fmt in problem.formats_of(group)]
        there = [(fmt, cost) for fmt, cost in costs if cost is not None]
        if not there:
            raise UserError(
                f"budget {name}={budget.text}: {group.name} is kept in {costs[0][0]}, which has no "
                "time in the latency table; keep it in another format"
            )
        names.append([fmt for fmt, _ in there])
        menu.append([_option(value(group, fmt), cost) for fmt, cost in there])
    try:
        solved = solve(menu, limit - measure.rest)
    except Infeasible as infeasible:
        least = measure.rest + infeasible.least
        part = f" ({_percent(least / whole)})" if whole else ""
        raise UserError(
            f"budget {name}={budget.text}: {measure.what} cannot go below {measure.say(least)}"
            f"{part} with these formats and kept ops; give that or more"
        ) from None
    picked = [formats[pick] for formats, pick in zip(names, solved.picks, strict=True)]
    total = measure.rest + solved.cost
    assert total <= limit, "a budget is never exceeded"
    return Assignment(
        formats={g.name: fmt for g, fmt in zip(groups, picked, strict=True) if fmt != HIGH},
        rule=_rule(budget, measure, limit, whole, total),
        optimum=_optimum(budget, problem, solved),
        ties=_ties(budget, problem, menu, names, solved),
    )


def _option(value: Fraction | None, cost: Fraction) -> Option:
    assert value is not None
    return Option(value=value, cost=cost)


def _dear(measure: _Measure, group: Group) -> Fraction:
    """Cost of a group in high precision."""
    return measure.cost(group, HIGH) or Fraction(0)


def _measure(name: str, budget: Budget, problem: Problem) -> _Measure:
    if budget.kind == "damage":
        return _Measure(
            cost=problem.damage_of,
            rest=Fraction(0),
            what="predicted damage",
            say=lambda v: f"{float(v):.6g}",
        )
    if budget.kind == "latency":
        return _latency(name, budget, problem)
    groups = problem.scored.groups
    candidates = sum((problem.bytes_of(group, HIGH) for group in groups), Fraction(0))
    if budget.kind == "bytes":
        return _Measure(
            cost=problem.bytes_of,
            rest=model_bytes(problem.model) - candidates,
            what="weight bytes of the whole model",
            say=_bytes,
        )
    return _Measure(
        cost=problem.bytes_of,
        rest=Fraction(0),
        what="weight-read time, as bytes of the candidates' weights read once,",
        say=_bytes,
    )


def _latency(name: str, budget: Budget, problem: Problem) -> _Measure:
    table, rule = problem.latency, f"budget {name}={budget.text}"
    if table is None:
        raise UserError(f"{rule}: give --latency FILE, a table of `quantspectrum latency`")
    if table.dtype != problem.model.dtype:
        raise UserError(
            f"{rule}: the latency table is of {table.dtype}, the reports of {problem.model.dtype}; "
            "measure it with --dtype of the reports"
        )
    rows = _rows(budget, table, rule)
    times = {(e.shape, e.format): Fraction(e.median_s) for e in table.entries if e.rows == rows}

    def cost(group: Group, fmt: str) -> Fraction | None:
        found = [times.get((op.shape, fmt)) for op in group.ops]
        known = [time for time in found if time is not None]
        return sum(known, Fraction(0)) if len(known) == len(found) else None

    for group in problem.scored.groups:
        if cost(group, HIGH) is None:
            raise UserError(
                f"{rule}: the latency table has no time of {group.name} in high precision at "
                f"{rows} rows; measure the table for this model and these rows"
            )
    without = [
        fmt
        for fmt in problem.scored.formats
        if all(cost(group, fmt) is None for group in problem.scored.groups)
    ]
    note = f"; without a kernel there: {', '.join(without)}" if without else ""
    where = table.provenance.environment.device_name
    return _Measure(
        cost=cost,
        rest=Fraction(0),
        what=f"summed times of the candidates' linears at {rows} rows on {where}",
        say=lambda v: f"{float(v) * 1e3:.6g} ms",
        note=note,
    )


def _rows(budget: Budget, table: LatencyTable, rule: str) -> int:
    """The count of rows whose times are meant."""
    measured = table.rows()
    if budget.rows is not None and budget.rows in measured:
        return budget.rows
    if budget.rows is None and len(measured) == 1:
        return measured[0]
    raise UserError(
        f"{rule}: the table has times for {', '.join(map(str, measured)) or 'no'} rows; say which, "
        "such as latency:80%@ROWS"
    )


def _rule(
    budget: Budget, measure: _Measure, limit: Fraction, whole: Fraction, total: Fraction
) -> str:
    aim = "fewest weight bytes" if budget.kind == "damage" else "least predicted damage"
    of = f" ({_percent(budget.share)} of {measure.say(whole)})" if budget.share is not None else ""
    return (
        f"{aim} with {measure.what} at most {measure.say(limit)}{of}: {measure.say(total)}"
        f"{measure.note}"
    )


def _optimum(budget: Budget, problem: Problem, solved: Solution) -> Optimum:
    rest = Fraction(0)
    if budget.kind == "damage":
        groups = problem.scored.groups
        rest = model_bytes(problem.model) - sum(
            (problem.bytes_of(group, HIGH) for group in groups), Fraction(0)
        )
    return Optimum(
        minimises="bytes" if budget.kind == "damage" else "damage",
        value=float(rest + solved.value),
        bound=float(rest + solved.bound),
        proved=solved.proved,
    )


def _ties(
    budget: Budget,
    problem: Problem,
    menu: Sequence[Sequence[Option]],
    names: Sequence[Sequence[str]],
    solved: Solution,
) -> CutTies | None:
    """Groups whose choice, at the price of the budget, is within the errors of the scores."""
    tied = judged = 0
    for group, options, formats, pick in zip(
        problem.scored.groups, menu, names, solved.picks, strict=True
    ):
        errors = [_stderr(problem, group, fmt) for fmt in formats]
        known = [error for error in errors if error is not None]
        if len(known) < len(errors) or not solved.price:
            continue
        judged += 1
        # Damage per cost; under a budget of damage the price is bytes per damage.
        price = 1 / solved.price if budget.kind == "damage" else solved.price
        worth = [
            float(o.cost + price * o.value)
            if budget.kind == "damage"
            else float(o.value + price * o.cost)
            for o in options
        ]
        tied += any(
            abs(worth[other] - worth[pick]) <= 2 * math.hypot(known[other], known[pick])
            for other in range(len(options))
            if other != pick
        )
    return CutTies(groups=tied, judged=judged) if judged else None


def _stderr(problem: Problem, group: Group, fmt: str) -> float | None:
    return 0.0 if fmt == HIGH else problem.scored.scores[fmt][group.name].stderr


def _percent(share: Fraction) -> str:
    return f"{float(share) * 100:.6g}%"


def _bytes(value: Fraction) -> str:
    size = float(value)
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.4f} {unit}"
    return f"{size:.0f} bytes"
