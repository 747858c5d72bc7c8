from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from quantspectrum.data import splits as module
from quantspectrum.data.images import picture_key
from quantspectrum.data.pictures import gradient
from quantspectrum.data.sample import Sample
from quantspectrum.data.splits import Splits, check_disjoint, identity, make_splits
from quantspectrum.errors import UserError

PICTURES = [gradient(4, 4 + height) for height in range(16)]
TEXTS = st.integers(0, 400).map(lambda number: f"text {number}")
UNITS = st.one_of(st.just(""), st.integers(0, 40).map(lambda number: f"unit {number}"))


def named(rows: Sequence[tuple[str, str, int | None]], source: str) -> list[Sample]:
    return [
        Sample(
            id=f"{source}:{place}",
            text=text,
            prompt=None if picture is None else "?",
            image=None if picture is None else PICTURES[picture],
            unit=unit,
        )
        for place, (text, unit, picture) in enumerate(rows)
    ]


SAMPLES = st.lists(
    st.tuples(TEXTS, UNITS, st.one_of(st.none(), st.none(), st.integers(0, 15))),
    min_size=25,
    max_size=50,
)
SIZES = st.tuples(*[st.integers(0, 6)] * 3).filter(any)


def draw(
    sources: dict[str, list[Sample]], sizes: tuple[int, ...], seed: int = 0, *specs: str
) -> Splits:
    """Make splits of samples in memory, each list standing for a source."""

    def load(spec: str, *, images: None) -> list[Sample]:
        return sources[spec]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_samples", load)
        return make_splits(
            specs or list(sources),
            images=None,
            calibration=sizes[0],
            selection=sizes[1],
            evaluation=sizes[2],
            seed=seed,
        )


def parts(splits: Splits) -> tuple[tuple[Sample, ...], ...]:
    return splits.calibration, splits.selection, splits.evaluation


def ids(splits: Splits) -> list[list[str]]:
    return [[sample.id for sample in part] for part in parts(splits)]


def drawn_or_rejected(
    sources: dict[str, list[Sample]], sizes: tuple[int, ...], seed: int
) -> Splits:
    """Make splits; an example with too few units says so and is not an example."""
    try:
        return draw(sources, sizes, seed)
    except UserError as error:
        if "too few to keep" not in str(error):
            raise
        reject()


@settings(deadline=None)  # a shared machine may stall
@given(SAMPLES, SAMPLES, SIZES, st.integers(0, 3))
def test_nothing_leaks_and_the_counts_are_exact(
    one: list[tuple[str, str, int | None]],
    two: list[tuple[str, str, int | None]],
    sizes: tuple[int, ...],
    seed: int,
) -> None:
    sources = {"one": named(one, "one"), "two": named(two, "two")}
    drawn = parts(drawn_or_rejected(sources, sizes, seed))
    assert tuple(map(len, drawn)) == sizes
    digests = [sample.digest() for part in drawn for sample in part]
    assert len(set(digests)) == len(digests)
    for first, second in combinations(drawn, 2):
        assert not {s.unit for s in first if s.unit} & {s.unit for s in second if s.unit}
        shown = [{picture_key(s.image) for s in part if s.image} for part in (first, second)]
        assert not shown[0] & shown[1]


@settings(deadline=None)  # a shared machine may stall
@given(SAMPLES, SIZES, st.randoms())
def test_the_order_of_samples_and_sources_changes_nothing(
    rows: list[tuple[str, str, int | None]], sizes: tuple[int, ...], random: Any
) -> None:
    one, two = named(rows[::2], "one"), named(rows[1::2], "two")
    straight = drawn_or_rejected({"one": one, "two": two}, sizes, 0)
    random.shuffle(one)
    random.shuffle(two)
    assert draw({"two": two, "one": one}, sizes, 0, "two", "one", "two") == straight


@settings(deadline=None)  # a shared machine may stall
@given(st.integers(3, 200), st.data(), st.integers(0, 5))
def test_different_samples_without_units_always_suffice(
    count: int, data: st.DataObject, seed: int
) -> None:
    first = data.draw(st.integers(0, count))
    second = data.draw(st.integers(0, count - first))
    sizes = (first, second, count - first - second)
    samples = named([(f"text {place}", "", None) for place in range(count)], "all")
    drawn = parts(draw({"all": samples}, sizes, seed))
    assert tuple(map(len, drawn)) == sizes
    assert {s.id for part in drawn for s in part} == {s.id for s in samples}


def test_a_seed_gives_the_same_splits_again_and_another_gives_others() -> None:
    sources = {"all": named([(f"text {place}", "", None) for place in range(100)], "all")}
    assert ids(draw(sources, (5, 5, 5), 1)) == ids(draw(sources, (5, 5, 5), 1))
    assert ids(draw(sources, (5, 5, 5), 1)) != ids(draw(sources, (5, 5, 5), 2))


def test_sources_and_kinds_have_the_same_share_in_every_split() -> None:
    mixed = [(f"mixed {place}", "", None) for place in range(50)]
    shown = [
        Sample(id=f"shown:{place}", text="t", prompt="?", image=gradient(4, 3 + place))
        for place in range(50)
    ]
    sources = {
        "plain": named([(f"plain {place}", "", None) for place in range(500)], "plain"),
        "mixed": named(mixed, "mixed") + shown,
    }
    for part, each in zip(parts(draw(sources, (6, 12, 24))), (2, 4, 8), strict=True):
        assert Counter(sample.id.split(":")[0] for sample in part) == {
            "plain": each,
            "mixed": each,
            "shown": each,
        }
        assert len({sample.id.split(":")[0] for sample in part[:3]}) == 3


def test_a_second_sample_of_a_unit_is_drawn_only_when_units_run_out() -> None:
    rows = [(f"text {place}", f"unit {place // 5}", None) for place in range(150)]
    sources = {"all": named(rows, "all")}
    few = [sample.unit for part in parts(draw(sources, (10, 10, 10))) for sample in part]
    assert len(set(few)) == 30
    some = draw(sources, (20, 20, 20))
    assert all(set(Counter(s.unit for s in part).values()) == {2} for part in parts(some))
    every = draw(sources, (25, 25, 100))
    assert [len({s.unit for s in part}) for part in parts(every)] == [5, 5, 20]


def test_duplicates_are_dropped_and_bind_their_units() -> None:
    rows = [("same", "a", None), ("same", "b", None), ("other a", "a", None), ("b", "b", None)]
    sources = {"all": [*named(rows, "all"), Sample(id="all:x", text="alone")]}
    with pytest.raises(UserError, match=r"2 units with 4 different samples"):
        draw(sources, (1, 1, 1))
    splits = draw(sources, (3, 1, 0))
    assert [len({s.unit for s in part}) for part in parts(splits)[:2]] == [2, 1]


def test_a_picture_binds_samples_of_different_sources(
    tmp_path: Path, picture: Callable[..., Path]
) -> None:
    """Captions and questions about one picture, which lies there twice, never part."""
    for name in range(6):
        picture(f"a/{name}.png", 20 + name)
        picture(f"b/{name}.png", 20 + name)
    for folder, count in (("a", 1), ("b", 3)):
        rows = [
            {"text": f"{folder} {name} {number}", "image": f"{folder}/{name}.png"}
            for name in range(6)
            for number in range(count)
        ]
        (tmp_path / f"{folder}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = make_splits(
        [f"jsonl:{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"],
        images=None,
        calibration=4,
        selection=4,
        evaluation=4,
        seed=0,
    )
    names = []
    for part in parts(splits):
        assert Counter(sample.id[0] for sample in part) == {"a": 2, "b": 2}
        names.append({s.image.name for s in part if isinstance(s.image, Path)})
    assert all(len(name) == 2 for name in names)
    assert len(set.union(*names)) == 6


def test_too_few_samples_are_counted_in_the_error() -> None:
    rows = [(f"text {place}", f"unit {place % 2}", None) for place in range(9)]
    with pytest.raises(UserError) as caught:
        draw({"all": named(rows, "all")}, (1, 2, 3))
    said = str(caught.value)
    assert "2 units with 9 different samples" in said
    assert "1 calibration + 2 selection + 3 evaluation" in said


@pytest.mark.parametrize(
    ("specs", "sizes", "said"),
    [
        ((), (1, 1, 1), "no data source"),
        (("all",), (0, 0, 0), "not usable"),
        (("all",), (1, -1, 1), "not usable"),
        (("demo", "all"), (1, 1, 1), "without other data sources"),
        (("demo",), (1, 100_001, 1), "demo draws at most 100000 scenes a split, not 100001"),
    ],
)
def test_what_cannot_be_split_is_told(
    specs: tuple[str, ...], sizes: tuple[int, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        make_splits(
            specs,
            images=None,
            calibration=sizes[0],
            selection=sizes[1],
            evaluation=sizes[2],
            seed=0,
        )


def test_two_samples_of_one_name_are_refused() -> None:
    sources = {
        "a": [Sample(id="rows:1", text="one")],
        "b": [Sample(id="rows:1", text="two"), Sample(id="rows:2", text="three")],
    }
    with pytest.raises(UserError, match="are called 'rows:1'"):
        draw(sources, (1, 1, 1))


def test_the_final_check_sees_a_shared_sample_and_a_shared_unit() -> None:
    def check(one: Sample, other: Sample) -> None:
        check_disjoint(Splits(calibration=(one,), selection=(), evaluation=(other,), source="x"))

    check(Sample(id="1", text="a", unit="u"), Sample(id="2", text="b", unit="v"))
    check(Sample(id="1", text="a"), Sample(id="2", text="b"))
    with pytest.raises(AssertionError, match="share the sample"):
        check(Sample(id="1", text="a", unit="u"), Sample(id="2", text="a", unit="v"))
    with pytest.raises(AssertionError, match="share the unit 'u'"):
        check(Sample(id="1", text="a", unit="u"), Sample(id="2", text="b", unit="u"))


def test_an_identity_is_of_the_contents_in_any_order() -> None:
    samples = named([("one", "", None), ("two", "", 0)], "all")
    first = identity(samples, "src", "evaluation")
    assert (first.source, first.split, first.samples) == ("src", "evaluation", 2)
    assert identity(samples[::-1], "src", "evaluation") == first
    assert identity(samples[:1], "src", "evaluation").sha256 != first.sha256
    renamed = [Sample(id="other", text="one"), samples[1]]
    assert identity(renamed, "src", "evaluation") == first


def test_the_demo_brings_its_own_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def demo_samples(split: str, count: int, seed: int) -> list[Sample]:
        asked.append((split, count, seed))
        return [Sample(id=f"{split}/{place}", text=f"{split} {place}") for place in range(count)]

    fake = SimpleNamespace(demo_samples=demo_samples)
    monkeypatch.setitem(sys.modules, "quantspectrum.demo.samples", fake)
    splits = make_splits(["demo"], images=None, calibration=2, selection=0, evaluation=3, seed=5)
    assert ids(splits) == [
        ["calibration/0", "calibration/1"],
        [],
        ["evaluation/0", "evaluation/1", "evaluation/2"],
    ]
    assert splits.source == "demo"
    assert asked == [("calibration", 2, 5), ("evaluation", 3, 5)]


def test_the_real_demo_data_are_disjoint() -> None:
    sizes = (24, 16, 48)
    splits = make_splits(["demo"], images=None, calibration=24, selection=16, evaluation=48, seed=0)
    assert tuple(map(len, parts(splits))) == sizes
    for part in parts(splits):
        assert {sample.image is None for sample in part} == {True, False}


def test_real_captions_and_text_mix_evenly(assets: Path) -> None:
    splits = make_splits(
        [f"coco:{assets}/coco/captions_val2017.json", f"text:{assets}/text/wiki.test.raw"],
        images=assets / "coco/images",
        calibration=16,
        selection=16,
        evaluation=64,
        seed=0,
    )
    for part in parts(splits):
        assert Counter(sample.image is None for sample in part) == {
            True: len(part) // 2,
            False: len(part) // 2,
        }
    units = [s.unit for part in parts(splits) for s in part if s.image is not None]
    assert len(set(units)) == len(units) == 48
