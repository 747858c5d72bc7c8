"""Tables of what was measured without a checkpoint."""

from __future__ import annotations

import pytest
import report_measured as measured
from report_measured import additivity, around, guard, guarded
from report_pages import column, markdown_page

from quantspectrum.artifacts import Interval
from quantspectrum.report.markdown import document_markdown, markdown_table
from quantspectrum.report.numbers import with_interval
from quantspectrum.report.quality import (
    KL_TOKENS,
    additivity_sentence,
    additivity_table,
    guard_document,
    guard_sentence,
    guard_table,
    rivals_table,
    search_sentence,
    trials_table,
    verdict_of,
)
from quantspectrum.report.tables import document_text
from quantspectrum.report.truth import (
    curves_table,
    groups_table,
    orders_table,
    truth_document,
    truth_sentence,
)
from quantspectrum.spectrum.additivity import fit_of


def test_rows_of_the_guard() -> None:
    table = guard_table(guard(guarded("a|b", "beats", "not told apart", "beats")))
    nothing, profile = table.rows
    assert nothing[-1] == "quantizes nothing"
    assert profile[:4] == ("a|b", "3", "3.00 kB", "1.50e-2 (1.00e-2 to 2.00e-2)")
    assert profile[4:] == ("beats", "beats 2, not told apart 1", "—", "NOT better than all rivals")
    assert "16 samples" in table.caption
    assert guard_table(guard(guarded("a|b", "beats"))).rows[1][-1] == "beats all"


def test_the_verdict_of_a_profile() -> None:
    made = guard(guarded("good", "beats"), guarded("bad", "loses"))
    assert verdict_of(made, "good") == "beats all"
    assert verdict_of(made, "bad") == "NOT better than all rivals"
    assert verdict_of(made, "baseline") == "quantizes nothing"
    assert verdict_of(made, "other") is None
    assert verdict_of(None, "good") is None


def test_rows_of_rivals_name_their_seeds() -> None:
    rows = rivals_table(guard(guarded("a|b", "beats", "loses"))).rows
    assert [row[1] for row in rows] == ["uniform", "random 0", "random 1"]
    assert rows[-1][-1] == "loses"


def test_a_profile_that_does_not_beat_its_rivals_is_named() -> None:
    assert "a|b" in guard_sentence(guard(guarded("a|b", "beats", "loses")))
    assert "beats all" in guard_sentence(guard(guarded("a|b", "beats")))
    assert "not checked" in guard_sentence(guard(guarded("a|b", "beats"), held_out=False))
    assert "not checked" not in guard_sentence(guard(guarded("a|b", "beats")))
    assert "No profile has a rival" in guard_sentence(guard())


def test_how_far_predictions_can_be_trusted() -> None:
    made = additivity()
    said = additivity_sentence(made)
    assert "power 1.00" in said
    assert "50 % of what is measured" in said
    assert [row[0] for row in additivity_table(made).rows] == ["1", "2", "3", "4"]
    assert "unit of their own" in additivity_sentence(additivity(same_unit=False))
    few = made.model_copy(update={"fit": fit_of(made.points[:1], same_unit=True)})
    assert "Too few points" in additivity_sentence(few)


def test_a_divergence_says_which_tokens_it_counts() -> None:
    """Evaluations count the answers' tokens only, so the figures are not the same."""
    kl, other = guard(), guard(quantity="mse_v2")
    assert KL_TOKENS in guard_table(kl).caption
    assert KL_TOKENS not in guard_table(other).caption
    assert KL_TOKENS in additivity_table(additivity()).caption
    assert KL_TOKENS not in additivity_table(additivity("nll")).caption
    assert KL_TOKENS in trials_table(measured.search(0.005)).caption
    assert KL_TOKENS in orders_table(measured.truth()).caption
    for said in ("all text tokens", "the prompts'", "the answers' tokens only"):
        assert said in KL_TOKENS


def test_names_are_inert_everywhere() -> None:
    made = guard(guarded("a|b\x1b[31m", "beats"))
    assert "a\\|b" in markdown_table(guard_table(made))
    text = document_text(guard_document(made))
    assert "a|b?[31m" in text
    assert "\x1b" not in text
    assert "log-log line" in text
    page = markdown_page(document_markdown(guard_document(made)))
    assert "table" in page.names()
    assert "a|b" in page.text


def test_what_a_search_found() -> None:
    assert "OVER" not in search_sentence(measured.search(0.005))
    said = search_sentence(measured.search(0.02))
    assert "the largest that keeps to it" in said
    assert "On the selection samples: 5.00e-3" in said
    assert "OVER the budget" in said
    (row,) = trials_table(measured.search(0.005)).rows
    assert row[:2] == ("1", "whole")
    assert row[-1] == "yes"
    assert "1.00e-2" in trials_table(measured.search(0.005)).caption


def test_a_search_that_found_nothing() -> None:
    made = measured.search(0.02)
    none = made.model_copy(
        update={
            "trials": (made.trials[0].model_copy(update={"meets": False}),),
            "profile": made.profile.model_copy(update={"ops": {}, "rule": "this is the baseline"}),
            "held_out": None,
            "held_out_judged": None,
        }
    )
    assert search_sentence(none) == "Budget kl 0.01: this is the baseline."
    assert trials_table(none).rows[0][-1] == "no"


@pytest.mark.parametrize(
    ("more", "differs"),
    [
        (around(0.01, 0.03), "yes"),
        (around(-0.03, -0.01), "yes"),
        (around(-0.01, 0.03), "no"),
        (Interval(n=1, value=0.5), "unknown"),
    ],
)
def test_orders_by_area_with_what_differs(more: Interval, differs: str) -> None:
    made = measured.truth()
    first = made.orders[0].model_copy(update={"area_more": more})
    table = orders_table(made.model_copy(update={"orders": (first, made.orders[1])}))
    assert column(table, "Order") == ["native:kl", "heuristic:size"]
    assert column(table, "Differs") == ["—", differs]
    assert column(table, "More than the best") == ["best", with_interval(more)]
    assert column(table, "Spearman") == ["0.90 (0.80 to 0.95)"] * 2
    assert column(table, "Kendall tau-b") == ["undefined"] * 2
    assert column(table, "Mean log10 KL") == ["−1.500"] * 2
    assert column(table, "KL at 50 % of bytes")[0].startswith("5.00e-1")
    assert "KL at 90 % of bytes" not in [one.title for one in table.columns]
    assert column(table, "Peak memory") == ["2.00 MB"] * 2


def test_the_rest_of_the_truth() -> None:
    made = measured.truth()
    assert column(groups_table(made), "Group") == ["g1", "g0"]
    assert len(curves_table(made).rows) == 4
    said = truth_sentence(made)
    assert "that of native:kl" in said
    assert "0.910" in said
    assert "not checked" not in said
    assert "not checked" in truth_sentence(made.model_copy(update={"held_out": False}))
    assert "`native:kl`" in document_markdown(truth_document(made))


def test_estimates_without_an_interval() -> None:
    assert with_interval(None) == "—"
    assert with_interval(Interval(n=1, value=0.5)) == "5.00e-1"
