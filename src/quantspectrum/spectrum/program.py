r"""The best assignment of formats to groups under a budget, as a mixed-integer program.

With :math:`x_{go} = 1` where group *g* takes option *o* (a format, or high precision), objective
:math:`v` and cost :math:`c`, the multiple-choice knapsack problem is

.. math::
    \min \sum_{g,o} v_{go} x_{go} \quad\text{with}\quad \sum_o x_{go} = 1,\;
    \sum_{g,o} c_{go} x_{go} \le B,\; x_{go} \in \{0, 1\}

(Kellerer, Pferschy and Pisinger, *Knapsack Problems*, 2004, chapter 11). Its linear relaxation is
solved exactly by walking the lower convex hulls of the groups; the options whose reduced cost is
above the gap that is left cannot be in a better assignment and are taken out (11.2), and HiGHS
(``scipy.optimize.milp``) solves the rest to a gap of zero. Costs are summed in exact arithmetic: an
assignment that is over the budget by the solver's tolerance is cut off and the next best one found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import numpy as np

__all__ = ["Infeasible", "Option", "Solution", "solve"]

TIME_LIMIT_S = 30.0
"""Longest search; after it the best assignment found is taken and called unproved."""

_MOST_CUTS = 50
_SCALE = 1e5
_OPTIMAL, _INFEASIBLE = 0, 2  # scipy.optimize.milp's status


@dataclass(frozen=True, kw_only=True)
class Option:
    """One format of one group.

    Attributes:
        value: What is minimised, 0 or more.
        cost: What the budget limits, 0 or more.
    """

    value: Fraction
    cost: Fraction


@dataclass(frozen=True, kw_only=True)
class Solution:
    """An assignment within the budget.

    Attributes:
        picks: For each group the index of its option.
        value: Sum of their values.
        cost: Sum of their costs, exact.
        bound: Value of the linear relaxation.
        price: What a unit of the budget is worth there: value lost per cost saved.
        proved: No better assignment is within the budget; not so where time ran out.
    """

    picks: tuple[int, ...]
    value: Fraction
    cost: Fraction
    bound: Fraction
    price: Fraction
    proved: bool = True


class Infeasible(Exception):  # noqa: N818 - told to the caller, who words it for the user
    """No assignment is within the budget; ``least`` is the smallest cost there is."""

    def __init__(self, least: Fraction) -> None:
        """Of the smallest cost."""
        super().__init__(f"the smallest cost is {float(least)}")
        self.least = least


def solve(menu: Sequence[Sequence[Option]], limit: Fraction) -> Solution:
    """The assignment of smallest value whose cost is at most ``limit``.

    Args:
        menu: For each group its options.
        limit: The budget.

    Raises:
        Infeasible: Every assignment costs more.
    """
    kept = [_undominated(options) for options in menu]
    relaxed = _relax(menu, kept, limit)
    gap = relaxed.value - relaxed.bound
    if not gap:
        return relaxed
    core = [
        [o for o in options if reduced[o] <= gap]
        for options, reduced in zip(kept, _reduced(menu, kept, relaxed.price), strict=True)
    ]
    found, proved = _milp(menu, core, limit, gap)
    value, cost = _totals(menu, found) if found is not None else (relaxed.value, relaxed.cost)
    if found is None or value >= relaxed.value:
        return replace(relaxed, proved=proved)
    return replace(relaxed, picks=found, value=value, cost=cost, proved=proved)


def _undominated(options: Sequence[Option]) -> list[int]:
    """Options that no other one matches in both value and cost, cheapest first."""
    order = sorted(range(len(options)), key=lambda o: (options[o].cost, options[o].value, o))
    kept: list[int] = []
    for o in order:
        if not kept or options[o].value < options[kept[-1]].value:
            kept.append(o)
    return kept


def _hull(options: Sequence[Option], kept: Sequence[int]) -> list[int]:
    """Those of ``kept`` on the lower convex hull of value over cost."""
    hull: list[int] = []
    for o in kept:
        while len(hull) > 1 and _slope(options, hull[-2], hull[-1]) <= _slope(options, hull[-1], o):
            hull.pop()
        hull.append(o)
    return hull


def _slope(options: Sequence[Option], a: int, b: int) -> Fraction:
    """Value gained per cost added from one option to a dearer one."""
    gained = options[a].value - options[b].value
    return gained / (options[b].cost - options[a].cost)


def _relax(
    menu: Sequence[Sequence[Option]], kept: Sequence[Sequence[int]], limit: Fraction
) -> Solution:
    """The linear relaxation's bound and price, and the assignment that its steps lead to."""
    picks = [options[0] for options in kept]
    value, cost = _totals(menu, picks)
    if cost > limit:
        raise Infeasible(cost)
    steps = []
    for g, options in enumerate(kept):
        hull = _hull(menu[g], options)
        for place, (a, b) in enumerate(pairwise(hull)):
            steps.append((-_slope(menu[g], a, b), g, place, a, b))
    bound, price, blocked = value, Fraction(0), set[int]()
    full = False
    for negative, g, _place, a, b in sorted(steps):
        added = menu[g][b].cost - menu[g][a].cost
        gained = menu[g][a].value - menu[g][b].value
        if not full:
            part = min(Fraction(1), (limit - cost) / added)
            bound -= part * gained
            if part < 1:
                full, price = True, -negative
        if g not in blocked and cost + added <= limit:
            cost, value, picks[g] = cost + added, value - gained, b
        else:
            blocked.add(g)
    return Solution(picks=tuple(picks), value=value, cost=cost, bound=bound, price=price)


def _reduced(
    menu: Sequence[Sequence[Option]], kept: Sequence[Sequence[int]], price: Fraction
) -> list[dict[int, Fraction]]:
    """By how much an option is worse than its group's best one at the price of the budget."""
    found = []
    for options, allowed in zip(menu, kept, strict=True):
        at_price = {o: options[o].value + price * options[o].cost for o in allowed}
        best = min(at_price.values())
        found.append({o: worth - best for o, worth in at_price.items()})
    return found


def _milp(
    menu: Sequence[Sequence[Option]], core: Sequence[Sequence[int]], limit: Fraction, gap: Fraction
) -> tuple[tuple[int, ...] | None, bool]:
    """The best assignment of ``core`` within the limit, if there is one, and whether it is proved."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    columns = [(g, o) for g, options in enumerate(core) for o in options]
    least = [min(menu[g][o].cost for o in options) for g, options in enumerate(core)]
    spare = limit - sum(least, Fraction(0))
    if spare < 0:
        return None, True
    # Shifted and scaled, so that HiGHS's absolute tolerances (1e-6) are far below what matters.
    low = [min(menu[g][o].value for o in options) for g, options in enumerate(core)]
    values = np.array([float((menu[g][o].value - low[g]) / gap) * 1e3 for g, o in columns])
    unit = spare or Fraction(1)
    costs = np.array([float((menu[g][o].cost - least[g]) / unit) * _SCALE for g, o in columns])
    one_each = csr_array(
        (np.ones(len(columns)), ([g for g, _ in columns], range(len(columns)))),
        shape=(len(core), len(columns)),
    )
    constraints = [
        LinearConstraint(one_each, 1, 1),
        LinearConstraint(csr_array(costs[None, :]), -np.inf, _SCALE if spare else 0.0),
    ]
    for _ in range(_MOST_CUTS):
        with _silent_stdout():
            done = milp(
                values,
                integrality=np.ones(len(columns)),
                bounds=Bounds(0, 1),
                constraints=constraints,
                options={"mip_rel_gap": 0.0, "time_limit": TIME_LIMIT_S},
            )
        if done.x is None:
            return None, done.status == _INFEASIBLE
        picks = tuple(o for (_, o), taken in zip(columns, done.x, strict=True) if taken > 0.5)
        assert len(picks) == len(core), "one option a group"
        if _totals(menu, picks)[1] <= limit:
            return picks, done.status == _OPTIMAL
        here = np.array([float(picks[g] == o) for g, o in columns])
        constraints.append(LinearConstraint(csr_array(here[None, :]), -np.inf, len(core) - 1))
    return None, False


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Keep what C code prints out of the standard output, which may be a record as JSON.

    HiGHS, as scipy 1.17 has it, prints a line where it repairs a solution, with output switched off.
    """
    try:
        flush = ctypes.CDLL(None).fflush
        kept = os.dup(1)
    except (OSError, AttributeError, TypeError):  # No C library by that name, or no stdout.
        yield
        return
    sys.stdout.flush()
    flush(None)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            flush(None)
            os.dup2(kept, 1)
            os.close(kept)


def _totals(menu: Sequence[Sequence[Option]], picks: Sequence[int]) -> tuple[Fraction, Fraction]:
    chosen = [options[o] for options, o in zip(menu, picks, strict=True)]
    return (
        sum((option.value for option in chosen), Fraction(0)),
        sum((option.cost for option in chosen), Fraction(0)),
    )
