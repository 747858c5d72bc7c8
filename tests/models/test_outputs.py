from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutput

import models_tiny
from quantspectrum.errors import UserError
from quantspectrum.models.limits import max_tokens
from quantspectrum.models.outputs import call_options, output_of

HIDDEN, POOLED = torch.ones(2, 3), torch.zeros(2)
IDS = torch.ones(2, dtype=torch.long)


def test_logits_come_first() -> None:
    result = CausalLMOutput(loss=torch.tensor(1.0), logits=HIDDEN, hidden_states=(POOLED,))
    assert output_of(result) is HIDDEN


@pytest.mark.parametrize(
    "result",
    [
        BaseModelOutputWithPooling(last_hidden_state=HIDDEN, pooler_output=POOLED),
        (HIDDEN, POOLED),
        {"mask": None, "ids": IDS, "hidden": HIDDEN},
        HIDDEN,
    ],
    ids=["record", "tuple", "dictionary", "tensor"],
)
def test_else_the_first_tensor_of_numbers(result: object) -> None:
    assert output_of(result) is HIDDEN


@pytest.mark.parametrize("result", [(), (IDS, None), {"ids": IDS}, IDS])
def test_a_model_that_gives_no_numbers_is_told(result: object) -> None:
    with pytest.raises(UserError, match="no tensor of numbers"):
        output_of(result)


def test_the_cache_is_off_where_there_is_one() -> None:
    assert call_options(models_tiny.causal_lm()) == {"use_cache": False}
    assert call_options(models_tiny.family("vit")) == {}


def positions(count: int, padding_idx: int | None = None) -> nn.Module:
    module = nn.Module()
    module.add_module("position_embeddings", nn.Embedding(count, 2, padding_idx))
    return module


class Limited:
    def __init__(self, limit: int) -> None:
        self.model_max_length = limit


@pytest.mark.parametrize(
    ("model", "tokenizer_limit", "expected"),
    [
        (positions(514, 1), 10**30, 512),
        (positions(512), 10**30, 512),
        (positions(512), 100, 100),
        (nn.Linear(2, 2), 10**30, None),
        (nn.Linear(2, 2), 77, 77),
    ],
)
def test_the_tightest_limit_counts(
    model: nn.Module, tokenizer_limit: int, expected: int | None
) -> None:
    assert max_tokens(model, Limited(tokenizer_limit)) == expected


def test_a_configuration_says_the_limit_where_positions_are_not_looked_up() -> None:
    model = nn.Linear(2, 2)
    model.config = type("Config", (), {"max_position_embeddings": 64})()
    assert max_tokens(model, None) == 64
