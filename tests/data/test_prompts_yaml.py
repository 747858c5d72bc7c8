"""Prompts in YAML, and files that are no such thing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quantspectrum.data.prompts import BUILT_IN, load_prompts
from quantspectrum.errors import UserError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_a_copy_of_the_built_in_file_is_the_built_in_set(tmp_path: Path) -> None:
    copied = load_prompts(written(tmp_path, BUILT_IN.read_text()), images=True)
    own = load_prompts(None, images=True)
    assert [(s.prompt, s.references) for s in copied] == [(s.prompt, s.references) for s in own]
    assert [s.id for s in copied[:2]] == ["mine.yaml:capital", "mine.yaml:sum"]
    assert [s.id for s in own[:2]] == ["prompt:capital", "prompt:sum"]
    for one, other in zip(copied, own, strict=True):
        assert one.digest() == other.digest()


def test_pictures_lie_beside_the_file(tmp_path: Path, picture: Callable[..., Path]) -> None:
    image = picture("a.png")
    path = written(tmp_path, "- prompt: What?\n  image: a.png\n- {prompt: Why, id: 4}\n")
    samples = load_prompts(path, images=True)
    assert [s.image for s in samples] == [image, None]
    assert [s.id for s in samples] == ["mine.yaml:0", "mine.yaml:4"]
    with pytest.raises(UserError, match="takes text alone"):
        load_prompts(path, images=False)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a list of prompts"),
        ("prompt: Why?", "not a list of prompts"),
        ("- Why?", "prompt 1 is not a mapping"),
        ("- id: 3", "has no 'prompt'"),
        ("- prompt: 3", "prompt must be a text, not int"),
        ("- prompt: '  '", "prompt is empty"),
        ("- {prompt: Why, promt: x}", "has the key 'promt'"),
        ("- {prompt: Why, references: Paris}", "references must be a list"),
        ("- {prompt: Why, references: [42]}", "quote numbers"),
        ("- {prompt: Why, id: [1]}", "id must be"),
        ("- {prompt: Why, id: true}", "id must be"),
        ("- {prompt: a, id: x}\n- {prompt: b, id: x}", "id 'x' is used twice"),
        ("- prompt: a\n  prompt: b", "key 'prompt' is there twice"),
        ("- {prompt: a, image: builtin:moon}", "there are builtin:red-disc"),
        ("- {prompt: a, image: ../../etc/passwd}", "lies outside"),
        ("- {prompt: a, image: 'https://x/y.png'}", "is a URL"),
        ("- {prompt: a, image: none.png}", "does not exist"),
        ("- prompt: !!python/object/apply:os.system ['true']", "not plain YAML"),
        ("- prompt: [unclosed", "not plain YAML"),
        ("- &a {prompt: x}\n- *a", "references"),
        (BOMB, "references"),
        ("[" * 3000, "nested too deeply|not plain YAML"),
        ("- prompt: 2024-13-45", "cannot be read|must be a text"),
        ("- {prompt: a, ? [b] : c}", "not plain YAML|has the key"),
        ("\x00", "not plain YAML"),
        ("- prompt: a\n" * 100_000, "larger than 1 MiB"),
    ],
)
def test_a_hostile_file_is_told_in_a_sentence(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        load_prompts(written(tmp_path, text), images=True)
