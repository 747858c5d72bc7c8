from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantspectrum.artifacts import Op, OpScore
from quantspectrum.sensitivity import mse_v2
from quantspectrum.sensitivity.journal import Journal
from quantspectrum.sensitivity.ranking import collect_measured, rank, whole_batches
from quantspectrum.sensitivity.scan import EVERYTHING, REFERENCE, UNREACHED, Base, journal_key


def op(name: str) -> Op:
    return Op(
        name=name, type="Linear", component="language", block=0, group=name, shape=(2, 2), params=4
    )


A, B, C = op("a"), op("b"), op("c")


FORMAT = "w8a8"
Entry = tuple[int, str, dict[str, list[float]]]
Ranked = tuple[tuple[OpScore, ...], list[tuple[str, str]]]


def key(name: str) -> str:
    return journal_key(name, FORMAT)


def journal_of(*entries: Entry) -> Journal:
    journal = Journal(None, {})
    for batch, name, values in entries:
        journal.add(batch, name if name == REFERENCE else key(name), values)
    return journal


def rank_ops(
    ops: Sequence[Op],
    journal: Journal,
    base: Base,
    batches: int,
    ranges: Mapping[str, tuple[float, float]],
    stopped_by: str | None,
) -> Ranked:
    """Ranked scores, and why the other ops have none."""
    names = [op.name for op in ops]
    collected = collect_measured(
        mse_v2,
        names,
        journal,
        base,
        FORMAT,
        batches=whole_batches(names, journal, batches, key),
        unfinished=stopped_by,
    )
    return rank(ops, collected.summaries, ranges=ranges), list(collected.missing.items())


def reference(batch: int, *signals: float) -> Entry:
    return batch, REFERENCE, {"signal": list(signals)}


def sse(batch: int, name: str, *values: float) -> Entry:
    return batch, name, {"sse": list(values)}


def unreached(batch: int, name: str, samples: int) -> Entry:
    return batch, name, {UNREACHED: [1.0] * samples}


def test_isolate_known_answer() -> None:
    journal = journal_of(
        reference(0, 10, 20),
        sse(0, "a", 1, 4),
        sse(0, "b", 5, 10),
        reference(1, 10),
        sse(1, "a", 3),
        sse(1, "b", 0),
    )
    scores, notes = rank_ops([A, B], journal, "isolate", 2, {"a": (-1.0, 1.0)}, None)
    assert notes == []
    assert [(s.name, s.rank, s.n) for s in scores] == [("b", 1, 3), ("a", 2, 3)]
    assert [s.score for s in scores] == pytest.approx([1 / 3, (0.1 + 0.2 + 0.3) / 3])
    assert [s.raw for s in scores] == [{"sse": 15, "signal": 40}, {"sse": 8, "signal": 40}]
    assert [s.input_range for s in scores] == [None, (-1.0, 1.0)]


def test_fallback_known_answer() -> None:
    journal = journal_of(
        reference(0, 10, 20),
        (0, EVERYTHING, {"sse": [5, 10]}),
        sse(0, "a", 1, 4),
        sse(0, "b", 6, 10),
    )
    scores, _ = rank_ops([A, B], journal, "fallback", 1, {}, None)
    assert [(s.name, s.rank) for s in scores] == [("a", 1), ("b", 2)]
    assert [s.score for s in scores] == pytest.approx([(0.4 + 0.3) / 2, -0.05])
    assert scores[0].raw == {"residual_sse": 5, "total_sse": 15, "signal": 30}


def test_ties_are_in_the_order_of_names() -> None:
    journal = journal_of(reference(0, 1), *(sse(0, name, 1) for name in "cab"))
    scores, _ = rank_ops([C, A, B], journal, "isolate", 1, {}, None)
    assert [(s.name, s.rank) for s in scores] == [("a", 1), ("b", 2), ("c", 3)]


def test_scores_compare_over_the_batches_where_all_ops_were_measured() -> None:
    journal = journal_of(
        reference(0, 10),
        sse(0, "a", 1),
        sse(0, "b", 2),
        reference(1, 10),
        sse(1, "a", 1000),
    )
    scores, notes = rank_ops([A, B], journal, "isolate", 2, {}, "interrupted")
    assert [(s.name, s.score, s.n) for s in scores] == [("b", 0.2, 1), ("a", 0.1, 1)]
    assert notes == []


def test_ops_the_first_batch_did_not_come_to_are_noted() -> None:
    journal = journal_of(reference(0, 10), sse(0, "b", 2))
    scores, notes = rank_ops([A, B, C], journal, "isolate", 2, {}, "interrupted")
    assert [s.name for s in scores] == ["b"]
    assert notes == [
        ("a", "not measured: interrupted"),
        ("c", "not measured: interrupted"),
    ]


def test_nothing_measured_leaves_notes_only() -> None:
    scores, notes = rank_ops([A, B], journal_of(), "fallback", 2, {}, "interrupted")
    assert scores == ()
    assert [name for name, _ in notes] == ["a", "b"]


def test_an_op_no_batch_reaches_is_noted() -> None:
    journal = journal_of(
        reference(0, 10), unreached(0, "a", 1), sse(0, "b", 1),
        reference(1, 10), unreached(1, "a", 1), sse(1, "b", 1),
    )  # fmt: skip
    scores, notes = rank_ops([A, B], journal, "isolate", 2, {}, None)
    assert [s.name for s in scores] == ["b"]
    assert notes == [("a", "the selection data never reaches it")]


def test_a_batch_that_does_not_run_an_op_sees_no_damage_from_it_alone() -> None:
    journal = journal_of(
        reference(0, 10, 10), unreached(0, "a", 2), sse(0, "b", 1, 1),
        reference(1, 10), sse(1, "a", 6), sse(1, "b", 1),
    )  # fmt: skip
    scores, _ = rank_ops([A, B], journal, "isolate", 2, {}, None)
    assert [(s.name, s.n) for s in scores] == [("a", 3), ("b", 3)]
    assert [s.score for s in scores] == pytest.approx([0.2, 0.1])


def test_a_batch_that_does_not_run_an_op_gains_nothing_from_restoring_it() -> None:
    journal = journal_of(
        reference(0, 10, 10), (0, EVERYTHING, {"sse": [7, 8]}), unreached(0, "a", 2),
        reference(1, 10), (1, EVERYTHING, {"sse": [9]}), sse(1, "a", 3),
    )  # fmt: skip
    (score,), _ = rank_ops([A], journal, "fallback", 2, {}, None)
    assert score.score == pytest.approx(0.2)
    assert score.n == 3
    assert score.raw["residual_sse"] == 7 + 8 + 3


def test_so_it_is_where_pictures_come_first() -> None:
    """What stands in for the batch is of that batch, whichever it is."""
    journal = journal_of(
        reference(0, 10), (0, EVERYTHING, {"sse": [9]}), sse(0, "a", 3),
        reference(1, 10, 10), (1, EVERYTHING, {"sse": [7, 8]}), unreached(1, "a", 2),
    )  # fmt: skip
    (score,), _ = rank_ops([A], journal, "fallback", 2, {}, None)
    assert score.score == pytest.approx(0.2)
    assert score.raw["residual_sse"] == 3 + 7 + 8


@given(
    values=st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=5
    ),
    order=st.permutations([A, B, C]),
)
def test_the_order_of_ops_changes_nothing(
    values: list[tuple[float, float, float]], order: list[Op]
) -> None:
    columns = dict(zip("abc", map(list, zip(*values, strict=True)), strict=True))
    journal = journal_of(
        reference(0, *[3.0] * len(values)), *((0, name, {"sse": v}) for name, v in columns.items())
    )
    expected = rank_ops([A, B, C], journal, "isolate", 1, {}, None)
    assert rank_ops(order, journal, "isolate", 1, {}, None) == expected
    scores = [score.score for score in expected[0]]
    assert scores == sorted(scores, reverse=True)
    assert [score.rank for score in expected[0]] == [1, 2, 3]
