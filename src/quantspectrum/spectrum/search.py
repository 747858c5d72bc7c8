"""The most aggressive choice of groups that keeps to a budget, in a bounded number of trials.

Whether a choice keeps to the budget can only be measured, and measuring is what costs. The search

1. tries every group; if that does, it is done;
2. bisects the prefixes of the ranking (least sensitive first), as if damage only grew along it;
3. repairs around the group at which the longest prefix found ends: it is left out and those after it
   are added, one at first, twice as many after each success, half as many after a failure; a group
   that fails alone is left out too. Half of the trials that are left are for this;
4. swaps: each group left out, the largest first, for the most sensitive one quantized that is smaller.
   What is left then goes to more of step 3.

Sizes only grow, and what is returned was itself tried and kept to the budget, whatever damage does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

__all__ = ["Step", "search"]

Step = Literal["whole", "bisect", "add", "swap"]

Chosen = tuple[int, ...]


class _Spent(Exception):  # noqa: N818 - not an error: the search is over
    """No trial is left."""


class _Search:
    def __init__(
        self, sizes: Sequence[int], fits: Callable[[Step, Chosen], bool], trials: int
    ) -> None:
        self.sizes = sizes
        self.left = trials
        self.best: Chosen = ()
        self._fits = fits
        self._seen: dict[Chosen, bool] = {}

    def size(self, chosen: Chosen) -> int:
        return sum(self.sizes[place] for place in chosen)

    def attempt(self, step: Step, places: Sequence[int]) -> bool:
        chosen = tuple(sorted(set(places)))
        if chosen not in self._seen:
            if self.left == 0:
                raise _Spent
            self.left -= 1
            self._seen[chosen] = self._fits(step, chosen)
            if self._seen[chosen] and self.size(chosen) > self.size(self.best):
                self.best = chosen
        return self._seen[chosen]

    def bisect(self) -> int:
        """Length of the longest prefix found."""
        low, high = 0, len(self.sizes)
        while high - low > 1:
            middle = (low + high) // 2
            if self.attempt("bisect", range(middle)):
                low = middle
            else:
                high = middle
        return low

    def add(self, at: int, *, reserved: int) -> tuple[list[int], int]:
        """Go on at a place while more trials are left; groups left out, and where it ended."""
        out: list[int] = []
        reach = 1
        while at < len(self.sizes) and self.left > reserved:
            block = range(at, min(at + reach, len(self.sizes)))
            if self.attempt("add", [*self.best, *block]):
                at, reach = block.stop, 2 * reach
            elif len(block) == 1:
                out.append(at)
                at += 1
            else:
                reach = len(block) // 2
        return out, at

    def swap(self, out: Sequence[int]) -> None:
        """Groups left out for smaller ones that are in."""
        for place in sorted(out, key=lambda place: (-self.sizes[place], place)):
            smaller = [p for p in self.best if self.sizes[p] < self.sizes[place]]
            if smaller:
                kept = [p for p in self.best if p != smaller[-1]]
                self.attempt("swap", [*kept, place])


def search(
    sizes: Sequence[int], fits: Callable[[Step, Chosen], bool], *, trials: int
) -> tuple[int, ...]:
    """Places of the groups of the largest choice found, in order; none when nothing was found.

    Args:
        sizes: Bytes of each group, least sensitive first.
        fits: Measures a choice of places, and tells whether it keeps to the budget. Called at most
            ``trials`` times, never twice with the same choice.
        trials: Most choices measured.
    """
    work = _Search(sizes, fits, trials)
    try:
        if not sizes or work.attempt("whole", range(len(sizes))):
            return work.best
        failed = work.bisect()
        out, at = work.add(failed + 1, reserved=work.left // 2)
        work.swap([failed, *out, *range(at, len(sizes))])
        work.add(at, reserved=0)
    except _Spent:
        pass
    return work.best
