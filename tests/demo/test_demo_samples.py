"""Demo samples: disjoint splits, fixed mixture, deterministic."""

from __future__ import annotations

import subprocess
import sys

import pytest
from demo_oracle import answer, parse

from quantspectrum.data.sample import Sample
from quantspectrum.demo import demo_prompts, demo_samples

FIRST_DIGESTS: list[str] = [
    "f3f5a3bd146d71fe345e61ae7d363c051b443ac272df301486a0b26b483fd9d7",
    "5f3f5ec7486d3dd15c177f1ad36ebb64e3f663704117ff01270f7f1a386b6314",
    "6d115d0d81c258982faaf85bc53848553b83bc6cb5b01dbb63e8f40c1312d6b6",
    "ce9bf2ecb5c3a6b35140816e88311e08f68c4c602c7a977b0c26249095b4978f",
    "c968a43985724dba97a7c4d7e4622757fb515dfaa7d086c0abfcc4ef285d5538",
    "2b59423b27e3cf72489a28a491cdf81a00f096e32cd5659a91c9f0771a28b0fc",
    "d5fc57bdd9597f2b932767f03971b916ec4db8c5fe5c6f40e3f046985f617f53",
    "ff791b7fe06b6164b8a014ca1aec809450d6bd8a492fce319fee690439d5380f",
]


def test_samples_are_the_same_on_every_machine() -> None:
    assert [s.digest() for s in demo_samples("calibration", 8)] == FIRST_DIGESTS


def test_splits_share_no_sample_and_no_scene() -> None:
    parts = [demo_samples(split, 150) for split in ("calibration", "selection", "evaluation")]
    samples = [sample for part in parts for sample in part]
    for name in ("id", "unit"):
        assert len({getattr(s, name) for s in samples}) == len(samples)
    assert len({s.digest() for s in samples}) == len(samples)


def test_a_seed_gives_other_scenes() -> None:
    first, second = ({s.unit for s in demo_samples("evaluation", 200, seed)} for seed in (0, 1))
    assert len(first & second) < 60


def test_mixture() -> None:
    samples = demo_samples("selection", 16)
    assert sum(s.image is not None for s in samples) == 10
    assert sum(s.prompt is None for s in samples) == 2
    assert sum(bool(s.references) for s in samples) == 14
    assert [s.digest() for s in samples[:5]] == [s.digest() for s in demo_samples("selection", 5)]


def test_answers_are_right_and_referenced() -> None:
    for sample in demo_samples("evaluation", 60, kinds=("text",)):
        assert sample.prompt is not None
        assert sample.image is None
        description, question = sample.prompt.rsplit(" . ", 1)
        assert answer(parse(description + " ."), question) == sample.text
        assert sample.references == (sample.text,)


def test_prompts() -> None:
    prompts = demo_prompts()
    assert len(prompts) == 12
    assert sum(p.image is not None for p in prompts) == 8
    assert all(p.prompt and p.references == (p.text,) for p in prompts)
    units = {s.unit for split in ("calibration", "selection") for s in demo_samples(split, 100)}
    assert not units & {p.unit for p in prompts}


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="unknown kind 'poem'"):
        demo_samples("evaluation", 1, kinds=("poem",))


def test_samples_are_samples() -> None:
    assert all(isinstance(s, Sample) for s in demo_samples("evaluation", 3))


def test_importing_the_package_leaves_torch_alone() -> None:
    code = "import sys, quantspectrum.demo as d; d.model_dir(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
