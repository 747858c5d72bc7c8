from __future__ import annotations

from quantspectrum.data.probe import probe_samples
from quantspectrum.data.splits import identity


def test_the_probe_is_fixed() -> None:
    """Its digest is written down: another one would make stored verifications incomparable."""
    assert identity(probe_samples(True), "probe", "prompts").sha256 == (
        "d4e151bbd727af742cd4a26c4cf97e3932523d9e8e58b2db3d804c6bae78a54a"
    )
    assert [sample.image is None for sample in probe_samples(True)] == [True] * 4 + [False] * 2
    assert probe_samples(False) == probe_samples(True)[:4]


def test_it_has_plain_text_and_answers() -> None:
    samples = probe_samples(True)
    assert {sample.prompt is None for sample in samples} == {True, False}
    assert all(sample.prompt for sample in samples if sample.image is not None)
    assert len({sample.id for sample in samples}) == len(samples)
