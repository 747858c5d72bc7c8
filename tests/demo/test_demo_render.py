"""Pictures: the same bytes everywhere, objects where and what they should be."""

from __future__ import annotations

import hashlib

import pytest
import torch

from quantspectrum.demo.questions import ask
from quantspectrum.demo.render import IMAGE_SIZE, render
from quantspectrum.demo.scenes import Scenes, sample_scenes, scene_range
from quantspectrum.demo.vocabulary import COLORS, SHAPES

PICTURES_SHA = "88eacbb8eb47e27226e0fd8926ff03942b525da62854d72e5ed1aa726aa15b13"


def one(shape: str, color: str, *, cell: int = 4, size: int = 1, key: int = 5) -> Scenes:
    """A batch of one scene with one object."""
    places = [SHAPES.index(shape), COLORS.index(color), size]
    rows = [torch.tensor([[value, 0, 0, 0]]) for value in (cell, *places)]
    return Scenes(torch.tensor([key]), torch.tensor([1]), *rows)


def background_distance(image: torch.Tensor) -> torch.Tensor:
    """[112, 112] largest difference of a channel from the corner's colour."""
    corner = image[-1, -1].int()
    return (image.int() - corner).abs().amax(-1)


def test_pictures_are_the_same_on_every_machine() -> None:
    images = render(sample_scenes("evaluation", 16))
    assert hashlib.sha256(images.numpy().tobytes()).hexdigest() == PICTURES_SHA


def test_a_picture_does_not_depend_on_its_batch() -> None:
    scenes = scene_range(0, 0, 40)
    assert torch.equal(render(scenes)[7:9], render(scenes[7:9]))


def test_shape_and_type() -> None:
    images = render(scene_range(0, 0, 3))
    assert images.shape == (3, IMAGE_SIZE, IMAGE_SIZE, 3)
    assert images.dtype == torch.uint8


def test_an_object_stays_inside_its_cell() -> None:
    for key in range(30):
        image = render(one("square", "white", cell=4, key=key))[0]
        rows, columns = torch.nonzero(background_distance(image) > 60, as_tuple=True)
        assert rows.min() >= 37
        assert rows.max() < 75
        assert columns.min() >= 37
        assert columns.max() < 75


def test_colors_are_close_to_their_names() -> None:
    expected = {"red": 0, "green": 1, "blue": 2}
    for name, channel in expected.items():
        image = render(one("square", name))[0]
        middle = image[background_distance(image) > 60].float().mean(0)
        assert int(middle.argmax()) == channel


def test_sizes_and_shapes_differ_in_area() -> None:
    def area(shape: str, size: int) -> int:
        return int((background_distance(render(one(shape, "white", size=size))[0]) > 60).sum())

    for shape in SHAPES:
        assert area(shape, 1) > 1.5 * area(shape, 0)
    areas = {shape: area(shape, 1) for shape in SHAPES}
    assert areas["square"] > areas["diamond"]
    assert areas["circle"] > areas["ring"] > 0


def test_absent_objects_are_not_drawn() -> None:
    scenes = one("circle", "red")
    filled = Scenes(
        scenes.key,
        scenes.count,
        *(
            torch.where(torch.arange(4) == 0, values, 1)
            for values in (scenes.cell, scenes.shape, scenes.color, scenes.size)
        ),
    )
    assert torch.equal(render(scenes), render(filled))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_scenes_texts_and_pictures() -> None:
    ours, theirs = scene_range(5, 0, 500), scene_range(5, 0, 500, "cuda")
    assert torch.equal(theirs.identity().cpu(), ours.identity())
    assert torch.equal(theirs.bucket().cpu(), ours.bucket())
    assert torch.equal(ask(theirs).question.cpu(), ask(ours).question)
    assert torch.equal(render(theirs).cpu(), render(ours))
