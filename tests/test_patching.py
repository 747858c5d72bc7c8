from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import nn

from quantspectrum.patching import replaced_attribute, replaced_forward


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.op = nn.Identity()

    def forward(self, _x: torch.Tensor | None) -> str:
        return "own"


def text(word: str):  # type: ignore[no-untyped-def]
    return lambda *_args: word


def test_a_forward_is_replaced_and_put_back() -> None:
    model = Holder()
    with replaced_forward(model, text("other")):
        assert model(None) == "other"
    assert model(None) == "own"
    assert "forward" not in vars(model)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_exception_too(error: type[BaseException]) -> None:
    model = Holder()
    with pytest.raises(error), replaced_forward(model, text("other")):
        raise error
    assert "forward" not in vars(model)


def test_levels_are_put_back_one_by_one() -> None:
    model = Holder()
    with replaced_forward(model, text("outer")):
        with replaced_forward(model, text("inner")):
            assert model(None) == "inner"
        assert model(None) == "outer"
    assert model(None) == "own"


def test_what_the_instance_had_of_its_own_comes_back() -> None:
    model, own = Holder(), text("the user's")
    model.forward = own
    with replaced_forward(model, text("other")):
        assert model(None) == "other"
    assert vars(model)["forward"] is own


def test_any_attribute_of_any_object() -> None:
    module = ModuleType("family")
    module.function = text("own")  # type: ignore[attr-defined]
    with replaced_attribute(module, "function", text("other")):
        assert module.function() == "other"
        with replaced_attribute(module, "more", text("new")):
            assert module.more() == "new"
    assert module.function() == "own"
    assert not hasattr(module, "more")


def test_an_attribute_that_is_false_comes_back() -> None:
    """Absent and falsy are not the same."""

    class Silent:
        def __bool__(self) -> bool:
            return False

        def __call__(self) -> None:
            return None

    model, own = Holder(), Silent()
    model.forward = own  # type: ignore[assignment]
    with replaced_forward(model, text("other")):
        pass
    assert vars(model)["forward"] is own
