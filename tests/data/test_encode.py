from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from quantspectrum.data.encode import Batch, encode, encode_prompts
from quantspectrum.data.pictures import gradient
from quantspectrum.data.probe import probe_samples
from quantspectrum.data.sample import Sample
from quantspectrum.data.sources import load_samples
from quantspectrum.data.tokens import SampleEncoder
from quantspectrum.errors import UserError

SAMPLES = [
    Sample(id="plain", text="A plain text of a few words, long enough to be scored."),
    Sample(id="chat", prompt="How much is 2 + 3?", text="Five."),
    Sample(id="short", prompt="Hi", text="Hello there, how are you?"),
    Sample(id="wide", prompt="What is it?", text="A gradient.", image=gradient(112, 56)),
    Sample(id="tall", prompt="Describe this image.", text="Colors!", image=gradient(56, 84)),
    Sample(id="big", prompt="And this?", text="More and more colors.", image=gradient(140, 140)),
]
TEXT_ONLY = [sample for sample in SAMPLES if sample.image is None]


@pytest.fixture(scope="module")
def tiny() -> Any:
    """A Qwen2.5-VL of two layers with random weights and the real vocabulary's ids."""
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151_936,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [1, 1, 2],
            },
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        image_token_id=151_655,
        video_token_id=151_656,
        vision_start_token_id=151_652,
        vision_end_token_id=151_653,
    )
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def losses(model: Any, batch: Batch) -> dict[str, torch.Tensor]:
    """Each sample's loss at each of its target tokens."""
    with torch.no_grad():
        logits = model(**batch.inputs).logits
    found = {}
    for row, name in enumerate(batch.sample_ids):
        (places,) = batch.target[row].nonzero(as_tuple=True)
        labels = batch.inputs["input_ids"][row, places]
        found[name] = torch.nn.functional.cross_entropy(
            logits[row, places - 1].float(), labels, reduction="none"
        )
    return found


def rows(batches: list[Batch]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Ids without padding, and target, by sample."""
    return {
        name: (
            batch.inputs["input_ids"][row][batch.inputs["attention_mask"][row].bool()],
            batch.target[row][batch.inputs["attention_mask"][row].bool()],
        )
        for batch in batches
        for row, name in enumerate(batch.sample_ids)
    }


def word_tokenizer(template: str | None = None, **options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer that knows every character of ASCII and begins every text with its BOS."""
    words = {token: place for place, token in enumerate(["<unk>", "<s>", "</s>", "<end>", "<u>"])}
    words |= {chr(code): len(words) + code for code in range(128)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words["<s>"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=["<end>", "<u>"],
        **options,
    )
    tokenizer.chat_template = template
    return tokenizer


# Padding changes nothing


@pytest.fixture(scope="module")
def single(tiny: Any, qwen: Any) -> list[tuple[Batch, torch.Tensor]]:
    """Every sample alone, without padding, with its losses."""
    batches = encode(SAMPLES, qwen, batch_size=1)
    assert all(batch.inputs["attention_mask"].all() for batch in batches)
    return [(batch, next(iter(losses(tiny, batch).values()))) for batch in batches]


def test_a_padded_batch_has_the_losses_of_single_samples(
    tiny: Any, qwen: Any, single: list[tuple[Batch, torch.Tensor]]
) -> None:
    padded: dict[str, torch.Tensor] = {}
    for batch in encode(SAMPLES, qwen, batch_size=3):
        assert not batch.inputs["attention_mask"].all()
        padded |= losses(tiny, batch)
    assert padded.keys() == {sample.id for sample in SAMPLES}
    for batch, expected in single:
        [name] = batch.sample_ids
        torch.testing.assert_close(padded[name], expected, atol=1e-4, rtol=0)


def test_the_losses_are_those_of_the_model_itself(
    tiny: Any, single: list[tuple[Batch, torch.Tensor]]
) -> None:
    for batch, found in single:
        labels = batch.inputs["input_ids"].masked_fill(~batch.target, -100)
        with torch.no_grad():
            expected = tiny(**batch.inputs, labels=labels).loss
        torch.testing.assert_close(found.mean(), expected, atol=1e-5, rtol=0)


def test_generation_from_padded_prompts_is_that_from_single_ones(tiny: Any, qwen: Any) -> None:
    samples = [sample for sample in SAMPLES if sample.prompt is not None]

    def generate(batch_size: int) -> dict[str, list[int]]:
        answers: dict[str, list[int]] = {}
        for batch in encode_prompts(samples, qwen, batch_size=batch_size):
            made = tiny.generate(
                **batch.inputs, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None
            )
            fresh = made[:, batch.inputs["input_ids"].shape[1] :].tolist()
            answers |= dict(zip(batch.sample_ids, fresh, strict=True))
        return answers

    assert generate(3) == generate(1)


# What is in a batch


def test_batches_are_of_one_kind_and_sorted_by_length(qwen: Any) -> None:
    batches = encode(SAMPLES, qwen, batch_size=2)
    assert [batch.kinds for batch in batches] == [
        ("text", "text"),
        ("text",),
        ("image+text", "image+text"),
        ("image+text",),
    ]
    for kind in ("text", "image+text"):
        lengths = [
            int(count)
            for batch in batches
            if batch.kinds[0] == kind
            for count in batch.inputs["attention_mask"].sum(dim=1)
        ]
        assert lengths == sorted(lengths, reverse=True)
    again = encode(SAMPLES, qwen, batch_size=2)
    assert [batch.sample_ids for batch in again] == [batch.sample_ids for batch in batches]
    assert encode([], qwen, batch_size=2) == []


def test_every_input_fits_the_others(qwen: Any) -> None:
    for batch in encode(SAMPLES, qwen, batch_size=2):
        shape = batch.target.shape
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            assert batch.inputs[name].shape == shape
            assert batch.inputs[name].dtype == torch.long
        mask = batch.inputs["attention_mask"].bool()
        assert not (batch.target & ~mask).any()
        assert (mask.long().diff(dim=1) <= 0).all()  # padded on the right
        pictures = batch.inputs["input_ids"] == qwen.image_token_id
        assert torch.equal(pictures, batch.inputs["mm_token_type_ids"] == 1)
        assert not (pictures & batch.target).any()
        if batch.kinds[0] == "text":
            assert batch.inputs.keys() == {"input_ids", "attention_mask", "mm_token_type_ids"}
            continue
        grid = batch.inputs["image_grid_thw"]
        assert grid.shape == (len(batch.sample_ids), 3)
        assert pictures.sum(dim=1).tolist() == (grid.prod(dim=1) // 4).tolist()
        assert batch.inputs["pixel_values"].shape[0] == grid.prod(dim=1).sum()


def test_prompt_and_target_join_to_the_text_of_the_template(qwen: Any) -> None:
    for name, (ids, target) in rows(encode(SAMPLES, qwen, batch_size=3)).items():
        sample = next(sample for sample in SAMPLES if sample.id == name)
        scored = qwen.tokenizer.decode(ids[target])
        if sample.prompt is None:
            assert qwen.tokenizer.decode(ids) == sample.text
            assert target.tolist() == [False] + [True] * (len(ids) - 1)
            continue
        assert scored == sample.text + "<|im_end|>"
        before = qwen.tokenizer.decode(ids[~target])
        assert before.endswith(f"{sample.prompt}<|im_end|>\n<|im_start|>assistant\n")
        if sample.image is None:
            turns = [
                {"role": role, "content": [{"type": "text", "text": text}]}
                for role, text in (("user", sample.prompt), ("assistant", sample.text))
            ]
            whole = qwen.apply_chat_template(turns, tokenize=False)
            assert before + scored + "\n" == whole


def test_prompts_are_the_targets_samples_without_their_targets(qwen: Any) -> None:
    samples = [sample for sample in SAMPLES if sample.prompt is not None]
    batches = encode_prompts(samples, qwen, batch_size=3)
    for batch in batches:
        assert not batch.target.any()
        assert batch.inputs["attention_mask"][:, -1].all()
        assert (batch.inputs["attention_mask"].diff(dim=1) >= 0).all()  # padded on the left
    full = rows(encode(samples, qwen, batch_size=3))
    for name, (ids, _) in rows(batches).items():
        whole, target = full[name]
        assert torch.equal(ids, whole[~target])


def test_a_batch_moves_whole(qwen: Any) -> None:
    [batch] = encode(SAMPLES[3:], qwen, batch_size=3)
    moved = batch.to("meta")
    assert {v.device.type for v in (*moved.inputs.values(), moved.target)} == {"meta"}
    assert (moved.sample_ids, moved.kinds) == (batch.sample_ids, batch.kinds)
    assert moved.inputs.keys() == batch.inputs.keys()


def test_real_pictures_encode(qwen: Any, assets: Path) -> None:
    samples = load_samples(f"{assets}/coco/captions_val2017.json", images=assets / "coco/images")[
        :3
    ]
    [batch] = encode(samples, qwen, batch_size=3, max_length=1024)
    for name, (ids, target) in rows([batch]).items():
        text = next(sample.text for sample in samples if sample.id == name)
        assert qwen.tokenizer.decode(ids[target]) == text + "<|im_end|>"


# Length limits


def test_only_targets_are_cut(qwen: Any) -> None:
    whole = rows(encode(SAMPLES, qwen, batch_size=1))
    for name, (ids, target) in whole.items():
        sample = next(sample for sample in SAMPLES if sample.id == name)
        limit = int((~target).sum()) + 2
        [(kept, scored)] = rows(encode([sample], qwen, batch_size=1, max_length=limit)).values()
        assert torch.equal(kept, ids[:limit])
        assert torch.equal(scored, target[:limit])
        roomy = rows(encode([sample], qwen, batch_size=1, max_length=len(ids)))
        assert torch.equal(roomy[name][0], ids)


def test_a_prompt_that_fills_the_limit_is_told(qwen: Any) -> None:
    length = SampleEncoder(qwen).prompt(SAMPLES[5])
    for limit in (len(length), len(length) - 3):
        said = f"big has nothing to score within {limit} .*{len(length)}"
        with pytest.raises(UserError, match=said):
            encode(SAMPLES, qwen, batch_size=2, max_length=limit)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 1, "max_length": 1}])
def test_unusable_limits_are_told(options: dict[str, int]) -> None:
    with pytest.raises(UserError, match="give at least"):
        encode(TEXT_ONLY, word_tokenizer(), **options)


def test_a_text_of_one_token_has_nothing_to_score() -> None:
    with pytest.raises(UserError, match="sample one has nothing to score"):
        encode([Sample(id="one", text="")], word_tokenizer(), batch_size=1)


# Plain tokenizers


def test_a_llama_tokenizer_without_template(stories: Any, assets: Path) -> None:
    assert stories.pad_token_id is None
    batches = encode(TEXT_ONLY, stories, batch_size=3)
    model = LlamaForCausalLM.from_pretrained(assets / "models/stories260k")
    single: dict[str, torch.Tensor] = {}
    for batch in encode(TEXT_ONLY, stories, batch_size=1):
        single |= losses(model, batch)
    [batch] = batches
    for name, found in losses(model, batch).items():
        torch.testing.assert_close(found, single[name], atol=1e-4, rtol=0)
    (plain, scored), (chat, answer) = rows(batches)["plain"], rows(batches)["chat"]
    assert plain.tolist() == stories(TEXT_ONLY[0].text)["input_ids"]
    assert plain[0] == stories.bos_token_id
    assert scored.tolist() == [False] + [True] * (len(plain) - 1)
    assert chat[0] == stories.bos_token_id
    assert stories.decode(chat[answer]) == "Five."
    assert (chat == stories.bos_token_id).sum() == 1
    assert not (chat == stories.eos_token_id).any()


def test_a_real_story_has_a_low_loss(stories: Any, assets: Path) -> None:
    """The targets are the right tokens: on its own kind of text the model does well."""
    model = LlamaForCausalLM.from_pretrained(assets / "models/stories260k")
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside."
    [batch] = encode([Sample(id="story", text=text)], stories, batch_size=1)
    [found] = losses(model, batch).values()
    assert found.mean() < 1.5


def test_a_chat_tokenizer_gets_strings_and_its_own_end_of_turn() -> None:
    template = (
        "<s>{% for m in messages %}<u>{{ m['role'][0] + ':' + m['content'] + '<end>' }}"
        "{% endfor %}{% if add_generation_prompt %}<u>a:{% endif %}"
    )
    tokenizer = word_tokenizer(template)
    found = rows(encode(TEXT_ONLY[1:], tokenizer, batch_size=2))
    ids, target = found["chat"]
    assert "".join(tokenizer.convert_ids_to_tokens(ids)) == (
        "<s><u>u:How much is 2 + 3?<end><u>a:Five.<end>"
    )
    assert "".join(tokenizer.convert_ids_to_tokens(ids[target])) == "Five.<end>"


@pytest.mark.parametrize("ending", ["", " ", "{{ eos_token }}", "\n<u>"])
def test_a_template_that_ends_no_turn_falls_back_to_the_end_of_sequence(ending: str) -> None:
    template = "{% for m in messages %}<u>{{ m['content'] }}" + ending + "{% endfor %}"
    tokenizer = word_tokenizer(template)
    _, target = (found := rows(encode(TEXT_ONLY[1:2], tokenizer, batch_size=1)))["chat"]
    assert tokenizer.convert_ids_to_tokens(found["chat"][0][target])[-1] == "</s>"


def test_a_processor_without_a_template_cannot_place_a_picture(qwen: Any) -> None:
    processor = copy.copy(qwen)
    processor.chat_template = None
    with pytest.raises(UserError, match="sample wide has an image, but this processor has no chat"):
        encode(SAMPLES, processor, batch_size=2)
    assert len(encode(TEXT_ONLY, processor, batch_size=3)) == 1


def test_a_text_only_model_refuses_pictures(qwen: Any) -> None:
    for processor in (word_tokenizer(), word_tokenizer("{{ messages }}"), qwen.tokenizer):
        with pytest.raises(UserError, match=r"sample wide has an image.*text-only data source"):
            encode(SAMPLES, processor, batch_size=2)
        with pytest.raises(UserError, match="sample probe:image:0 has an image"):
            encode_prompts(probe_samples(True)[2:], processor, batch_size=2)


def test_a_tokenizer_with_neither_pad_nor_end_pads_with_zero() -> None:
    tokenizer = word_tokenizer()
    assert SampleEncoder(tokenizer).pad_token_id == tokenizer.eos_token_id
    tokenizer.eos_token = None
    [batch] = encode(TEXT_ONLY, tokenizer, batch_size=3)
    padding = batch.inputs["attention_mask"] == 0
    assert padding.any()
    assert set(batch.inputs["input_ids"][padding].tolist()) == {0}


def test_other_inputs_of_one_value_a_token_are_extended() -> None:
    tokenizer = word_tokenizer(model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    [batch] = encode(TEXT_ONLY, tokenizer, batch_size=3)
    assert batch.inputs["token_type_ids"].shape == batch.target.shape
    assert not batch.inputs["token_type_ids"].any()


# Samples that cannot be encoded


def test_a_broken_picture_is_named(qwen: Any, picture: Callable[..., Path]) -> None:
    path = picture("cut.jpg", 64, 64)
    path.write_bytes(path.read_bytes()[:-400])
    sample = Sample(id="cut", prompt="?", text="a", image=path)
    for make in (encode, encode_prompts):
        with pytest.raises(UserError, match=r"sample cut: .*cut\.jpg is not an image"):
            make([sample], qwen, batch_size=1)


def test_a_file_and_the_same_picture_in_memory_encode_alike(
    qwen: Any, picture: Callable[..., Path]
) -> None:
    path = picture("a.png", 56, 84)
    one, other = (
        encode([Sample(id="a", prompt="?", text="a", image=image)], qwen, batch_size=1)[0]
        for image in (path, gradient(56, 84).convert("RGBA"))
    )
    assert torch.equal(one.inputs["pixel_values"], other.inputs["pixel_values"])


def test_what_the_processor_refuses_is_told_with_the_sample(qwen: Any) -> None:
    sample = Sample(id="thin", prompt="?", text="a", image=gradient(900, 2))
    with pytest.raises(UserError, match=r"sample thin cannot be encoded \(.*aspect ratio"):
        encode([sample], qwen, batch_size=1)


@pytest.mark.parametrize(
    "sample",
    [
        Sample(id="bad", text="look: <|image_pad|> here"),
        Sample(id="bad", prompt="<|image_pad|>?", text="a"),
        Sample(id="bad", prompt="what?", text="an <|image_pad|>"),
        Sample(id="bad", prompt="<|image_pad|>?", text="a", image=gradient(56, 56)),
        Sample(id="bad", prompt="what?", text="a <|video_pad|>", image=gradient(56, 56)),
    ],
)
def test_a_text_may_not_spell_an_image_token(sample: Sample, qwen: Any) -> None:
    with pytest.raises(UserError, match=r"sample bad has <\|(image|video)_pad\|> in its text"):
        encode([sample], qwen, batch_size=1)


def test_a_sample_lacks_a_prompt(qwen: Any) -> None:
    with pytest.raises(UserError, match="sample plain has no prompt to answer"):
        encode_prompts(SAMPLES, qwen, batch_size=1)
    with pytest.raises(UserError, match="sample x has an image but no prompt"):
        encode([Sample(id="x", text="a", image=gradient(56, 56))], qwen, batch_size=1)


def test_the_probe_encodes_for_every_kind_of_processor(qwen: Any, stories: Any) -> None:
    assert sum(len(b.sample_ids) for b in encode(probe_samples(True), qwen, batch_size=4)) == 6
    assert sum(len(b.sample_ids) for b in encode(probe_samples(False), stories, batch_size=4)) == 4
