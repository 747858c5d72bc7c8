"""Scenes: deterministic, well formed, and split by content."""

from __future__ import annotations

import hashlib

import pytest
import torch

from quantspectrum.demo.scenes import GRID, SPLITS, Scenes, sample_scenes, scene_range

HELD_OUT = ("calibration", "selection", "evaluation")


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def test_scenes_are_the_same_on_every_machine() -> None:
    scenes = scene_range(seed=3, start=1000, stop=3000)
    assert digest(scenes.identity()) == SCENES_SHA
    assert digest(scenes.bucket()) == BUCKETS_SHA


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    whole, part = scene_range(7, 0, 500), scene_range(7, 200, 300)
    assert torch.equal(whole[200:300].identity(), part.identity())
    assert not torch.equal(scene_range(8, 200, 300).identity(), part.identity())


def test_objects_are_in_different_cells_in_reading_order() -> None:
    scenes = scene_range(0, 0, 4000)
    assert set(scenes.count.tolist()) == {1, 2, 3, 4}
    for count, cells in zip(scenes.count.tolist(), scenes.cell.tolist(), strict=True):
        shown = cells[:count]
        assert shown == sorted(set(shown))
        assert all(0 <= cell < GRID * GRID for cell in shown)


def test_every_value_of_every_attribute_occurs_about_equally() -> None:
    scenes = scene_range(0, 0, 20000)
    for values, kinds in ((scenes.shape, 6), (scenes.color, 8), (scenes.size, 2), (scenes.cell, 9)):
        shares = torch.bincount(values[scenes.present], minlength=kinds) / scenes.present.sum()
        assert len(shares) == kinds
        assert (shares - 1 / kinds).abs().max() < 0.01


def test_splits_share_no_bucket_and_cover_all() -> None:
    buckets = [bucket for split in SPLITS.values() for bucket in split]
    assert sorted(buckets) == list(range(16))


def test_splits_share_no_content() -> None:
    scenes = scene_range(0, 0, 60000)
    seen = {split: set(scenes[scenes.in_split(split)].identity().tolist()) for split in SPLITS}
    assert sum(map(len, seen.values())) == len(set(scenes.identity().tolist()))
    assert all(len(identities) > 3000 for identities in seen.values())


def test_the_split_ignores_everything_but_content() -> None:
    scenes = scene_range(0, 0, 1000)
    other = Scenes(
        scenes.key ^ 12345,
        scenes.count,
        *(scenes.cell, scenes.shape),
        *(
            torch.where(scenes.present, values, 1 - values.clamp(max=1))
            for values in (scenes.color, scenes.size)
        ),
    )
    assert torch.equal(other.bucket(), scenes.bucket())
    assert torch.equal(other.identity(), scenes.identity())


@pytest.mark.parametrize("split", HELD_OUT)
def test_samples_are_distinct_prefixes_of_their_split(split: str) -> None:
    few, many = sample_scenes(split, 100), sample_scenes(split, 700)
    assert torch.equal(few.identity(), many[:100].identity())
    assert len(set(many.identity().tolist())) == 700
    assert bool(many.in_split(split).all())


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="unknown split 'test'"):
        sample_scenes("test", 1)


def test_no_scenes() -> None:
    assert len(sample_scenes("evaluation", 0)) == 0


SCENES_SHA = "1796c7e7b9d3534a8b9cac81230023f54ebe2e3845d5ff3a88fe4b3974832176"
BUCKETS_SHA = "6045a0605040bc17cec3b49b17bd38827e46b61666de89da4647eca99c9881dd"
