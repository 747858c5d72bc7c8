from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import models_tiny
import processors_tiny
from processors_tiny import CLS, ENCODER_PAD, MASK, SEP
from quantspectrum.data.encode import Batch, encode, encode_for
from quantspectrum.data.encoders import MASKED_SHARE
from quantspectrum.data.pictures import gradient
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded
from quantspectrum.models.outputs import run_model
from quantspectrum.models.tasks import Task

TEXTS = [
    Sample(id="long", text="Rivers carry sediment to the sea every year."),
    Sample(id="short", text="Five."),
    Sample(id="asked", prompt="How much is 2 + 3?", text="Five."),
]
PICTURES = [
    Sample(id="wide", text="", image=gradient(60, 30)),
    Sample(id="tall", text="A caption.", prompt="What?", image=gradient(30, 60)),
    Sample(id="small", text="", image=gradient(8, 8)),
]


def texts(task: Task, samples: list[Sample] = TEXTS, size: int = 3, **options: Any) -> list[Batch]:
    processor = processors_tiny.encoder_tokenizer()
    return encode(samples, processor, batch_size=size, task=task, **options)


def pictures(samples: list[Sample] = PICTURES, size: int = 3, **options: Any) -> list[Batch]:
    processor = processors_tiny.image_processor()
    return encode(samples, processor, batch_size=size, task="image-classification", **options)


def row(batches: list[Batch], name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, target and labels of one sample, without its padding."""
    for batch in batches:
        if name in batch.sample_ids:
            place = batch.sample_ids.index(name)
            real = batch.inputs["attention_mask"][place].bool()
            assert batch.labels is not None
            held = (batch.inputs["input_ids"], batch.target, batch.labels)
            return tuple(values[place][real] for values in held)  # type: ignore[return-value]
    raise AssertionError(name)


# Masked language models


def test_a_share_of_the_tokens_is_masked_and_kept_as_labels() -> None:
    tokenizer = processors_tiny.encoder_tokenizer()
    batches = texts("masked-lm")
    for sample in TEXTS:
        ids, target, labels = row(batches, sample.id)
        text = sample.text if sample.prompt is None else f"{sample.prompt}\n{sample.text}"
        assert labels.tolist() == tokenizer(text)["input_ids"]
        assert (labels[0], labels[-1]) == (CLS, SEP)
        assert torch.equal(ids == MASK, target)
        assert torch.equal(ids[~target], labels[~target])
        assert int(target.sum()) == max(1, round(MASKED_SHARE * (len(ids) - 2)))
        assert not target[0]
        assert not target[-1]


def test_what_is_masked_depends_on_the_text_alone() -> None:
    together = texts("masked-lm")
    alone = texts("masked-lm", list(reversed(TEXTS)), size=1)
    for sample in TEXTS:
        for one, other in zip(row(together, sample.id), row(alone, sample.id), strict=True):
            assert torch.equal(one, other)
    again = [Sample(id="renamed", text=TEXTS[0].text)]
    assert torch.equal(row(texts("masked-lm", again), "renamed")[1], row(together, "long")[1])


def test_different_texts_hide_different_places() -> None:
    samples = [Sample(id=str(i), text=f"{i:030}") for i in range(20)]
    places = {tuple(row(texts("masked-lm", samples), s.id)[1].tolist()) for s in samples}
    assert len(places) == 20


def test_padding_of_a_masked_batch() -> None:
    [batch] = texts("masked-lm")
    padding = batch.inputs["attention_mask"] == 0
    assert padding.any()
    assert (batch.inputs["input_ids"][padding] == ENCODER_PAD).all()
    assert not batch.target[padding].any()
    assert batch.predicts == "same-token"
    assert torch.equal(batch.predicting(), batch.target)


def test_a_text_is_cut_with_its_special_tokens() -> None:
    for name in ("masked-lm", "text", "sequence-classification"):
        task: Task = name  # type: ignore[assignment]
        [batch] = texts(task, TEXTS[:1], max_length=9)
        ids = batch.inputs["input_ids"][0]
        assert len(ids) == 9
        assert (ids[0], ids[-1]) == (CLS, SEP)


def test_a_tokenizer_without_a_mask_is_told() -> None:
    tokenizer = processors_tiny.tokenizer()
    with pytest.raises(UserError, match="no mask token"):
        encode(TEXTS, tokenizer, batch_size=1, task="masked-lm")


def test_a_text_without_tokens_is_told() -> None:
    empty = [Sample(id="nothing", text="")]
    with pytest.raises(UserError, match="nothing has no token to mask"):
        texts("masked-lm", empty)
    bare = processors_tiny.tokenizer()
    with pytest.raises(UserError, match="nothing has no tokens"):
        encode(empty, bare, batch_size=1, task="text")


# Other models of texts


def test_a_classified_text_has_one_target() -> None:
    [batch] = texts("sequence-classification")
    assert batch.predicts == "sample"
    assert batch.target.shape == (3, 1)
    assert batch.predicting().all()
    assert batch.inputs["input_ids"].shape == batch.inputs["attention_mask"].shape
    assert batch.labels is None
    assert batch.kinds == ("text",) * 3


def test_every_token_counts_where_the_outputs_are_unknown() -> None:
    [batch] = texts("text")
    assert batch.predicts == "same-token"
    assert torch.equal(batch.target, batch.inputs["attention_mask"].bool())


def test_the_longest_texts_come_first() -> None:
    batches = texts("sequence-classification", size=1)
    assert [batch.sample_ids[0] for batch in batches] == ["long", "asked", "short"]


def test_an_encoder_takes_no_pictures() -> None:
    for name in ("masked-lm", "text", "sequence-classification"):
        task: Task = name  # type: ignore[assignment]
        with pytest.raises(UserError, match=r"sample wide has an image.*text-only data source"):
            texts(task, PICTURES[:1])


# Pictures alone


def test_pictures_become_pixels_alone() -> None:
    [batch] = pictures()
    assert {name: tuple(v.shape) for name, v in batch.inputs.items()} == {
        "pixel_values": (3, 3, 32, 32)
    }
    assert (batch.kinds, batch.predicts) == (("image",) * 3, "sample")
    assert batch.sample_ids == ("wide", "tall", "small")
    assert batch.target.shape == (3, 1)
    assert batch.target.all()
    assert len(pictures(size=2)) == 2


def test_the_text_with_a_picture_is_not_looked_at() -> None:
    bare = [Sample(id="bare", text="", image=PICTURES[1].image)]
    [one], [other] = pictures(PICTURES[1:2]), pictures(bare)
    assert torch.equal(one.inputs["pixel_values"], other.inputs["pixel_values"])


def test_pictures_of_unlike_sizes_are_in_batches_of_their_own() -> None:
    processor = processors_tiny.image_processor()
    processor.do_resize = False
    samples = [*PICTURES, Sample(id="wide too", text="", image=gradient(60, 30))]
    batches = encode(samples, processor, batch_size=4, task="image")
    assert [batch.sample_ids for batch in batches] == [("wide", "wide too"), ("tall",), ("small",)]


def test_an_image_model_takes_no_text() -> None:
    with pytest.raises(UserError, match=r"sample short has no image.*images:DIR"):
        pictures(TEXTS[1:2])


def test_a_broken_picture_is_named(picture: Callable[..., Path]) -> None:
    path = picture("cut.png", 64, 64)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"sample cut: .*cut\.png is not an image"):
        pictures([Sample(id="cut", text="", image=path)])


def test_what_an_image_processor_refuses_is_told() -> None:
    processor = copy.copy(processors_tiny.image_processor())
    processor.size = {"longest_edge": -1}
    with pytest.raises(UserError, match=r"sample wide cannot be encoded \("):
        encode(PICTURES, processor, batch_size=1, task="image")


# All kinds


def loaded(family: str) -> Loaded:
    return models_tiny.loaded(models_tiny.family(family))


@pytest.mark.parametrize("family", models_tiny.FAMILIES)
def test_every_kind_of_model_runs_on_its_data(family: str) -> None:
    model = loaded(family)
    samples = TEXTS if model.takes_text else PICTURES
    [batch] = encode_for(model, samples, batch_size=3)
    with torch.inference_mode():
        output = run_model(model.model, batch.inputs)
    assert output.shape[0] == 3
    if batch.predicts != "sample":
        assert output.shape[:2] == batch.target.shape
    assert output.isfinite().all()


@pytest.mark.parametrize("family", ["bert", "bert classifier", "unknown text"])
def test_padding_changes_no_output(family: str) -> None:
    model = loaded(family)
    [together] = encode_for(model, TEXTS, batch_size=3)
    found = run_model(model.model, together.inputs)
    for batch in encode_for(model, TEXTS, batch_size=1):
        place = together.sample_ids.index(batch.sample_ids[0])
        alone = run_model(model.model, batch.inputs)[0]
        if batch.predicts == "sample":
            torch.testing.assert_close(found[place], alone, atol=1e-5, rtol=1e-5)
        else:
            torch.testing.assert_close(found[place, : len(alone)], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "positions"), [("bert", 128), ("roberta", 127)])
def test_no_text_is_longer_than_an_encoder_has_positions_for(family: str, positions: int) -> None:
    model = loaded(family)
    [batch] = encode_for(model, [Sample(id="x", text="word " * 200)], batch_size=1, max_length=1024)
    assert batch.target.shape == (1, positions)
    run_model(model.model, batch.inputs)
    [shorter] = encode_for(model, [Sample(id="x", text="word " * 200)], batch_size=1, max_length=50)
    assert shorter.target.shape == (1, 50)


def test_a_text_that_is_written_is_cut_by_the_caller_alone() -> None:
    model = loaded("llama")
    assert model.max_tokens is None
    [batch] = encode_for(model, TEXTS[:1], batch_size=1)
    assert batch.predicts == "next-token"


def test_predicting_positions_come_before_their_tokens() -> None:
    [batch] = encode_for(loaded("llama"), TEXTS, batch_size=3)
    predicting = batch.predicting()
    assert not predicting[:, -1].any()
    assert torch.equal(predicting[:, :-1], batch.target[:, 1:])
    assert int(predicting.sum()) == int(batch.target.sum())


def test_labels_move_with_the_batch() -> None:
    [batch] = texts("masked-lm")
    moved = batch.to("meta")
    assert moved.labels is not None
    assert moved.labels.device.type == "meta"
    assert moved.predicts == batch.predicts
