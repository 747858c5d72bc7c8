from __future__ import annotations

from fractions import Fraction

import pytest

from quantspectrum.errors import UserError
from quantspectrum.spectrum.rules import Budget, Keep, parse_budgets, parse_cuts, parse_keeps


@pytest.mark.parametrize(
    ("rule", "budget"),
    [
        ("bytes:60%", {"kind": "bytes", "share": Fraction(3, 5)}),
        ("bytes:33.3%", {"kind": "bytes", "share": Fraction(333, 1000)}),
        ("bytes:1.5GB", {"kind": "bytes", "limit": Fraction(1_500_000_000)}),
        ("bytes:2GiB", {"kind": "bytes", "limit": Fraction(2**31)}),
        ("damage:0.01", {"kind": "damage", "limit": Fraction(0.01)}),
        ("damage:1e-3", {"kind": "damage", "limit": Fraction(0.001)}),
        ("damage:0", {"kind": "damage", "limit": Fraction(0)}),
        ("time:70%", {"kind": "time", "share": Fraction(7, 10)}),
        ("latency:80%", {"kind": "latency", "share": Fraction(4, 5)}),
        ("latency:80%@128", {"kind": "latency", "share": Fraction(4, 5), "rows": 128}),
        ("latency:4ms@1", {"kind": "latency", "limit": Fraction(0.004), "rows": 1}),
        ("latency:250us", {"kind": "latency", "limit": Fraction(0.00025)}),
        ("latency:0.5s", {"kind": "latency", "limit": Fraction(1, 2)}),
    ],
)
def test_budgets_are_read_exactly(rule: str, budget: dict[str, object]) -> None:
    assert parse_budgets([f"b={rule}"]) == {"b": Budget(text=rule, **budget)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        *("", "b", "b=", "b=bytes", "b=bytes:"),
        *("b=bytes:0%", "b=bytes:101%", "b=bytes:-5%", "b=bytes:much", "b=bytes:nan%"),
        *(
            "b=damage:5%",
            "b=damage:-1",
            "b=damage:nan",
            "b=damage:inf",
            "b=damage:1e400",
            "b=damage:",
        ),
        *("b=time:5ms", "b=time:1", "b=latency:5", "b=latency:5m", "b=latency:80%@", "b=ram:5%"),
        *("b=latency:80%@0", "b=latency:80%@1.5", "b=bytes:60%@1", "b=latency:0ms", "b=60%"),
    ],
)
def test_a_budget_of_another_form_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match=r"is not one of NAME=bytes:60%") as refused:
        parse_budgets([text])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b"])
def test_a_budget_whose_name_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="use a new name of letters"):
        parse_budgets([f"{name}=bytes:60%"])


def test_a_budget_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match="use a new name"):
        parse_budgets(["a=bytes:60%", "a=bytes:70%"])


def test_keeps_are_parted_at_the_last_sign() -> None:
    assert parse_keeps(["mlp.down_proj=bf16", "re:.*=x.*=fp8"]) == [
        Keep(pattern="mlp.down_proj", format="bf16"),
        Keep(pattern="re:.*=x.*", format="fp8"),
    ]


@pytest.mark.parametrize("text", ["", "down_proj", "=bf16", "down_proj="])
def test_a_keep_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"is not PATTERN=FORMAT"):
        parse_keeps([text])


@pytest.mark.parametrize("rule", ["baseline=10%", "baseline=bytes:60%"])
def test_nothing_that_quantizes_is_called_baseline(rule: str) -> None:
    with pytest.raises(UserError, match="baseline is what nothing is quantized in"):
        (parse_budgets if "bytes" in rule else parse_cuts)([rule])


def test_the_baseline_itself_may_be_named() -> None:
    assert parse_cuts(["baseline=0%"]) == {"baseline": 0}
