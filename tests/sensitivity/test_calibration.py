from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models_tiny
from quantspectrum.data.encode import Batch
from quantspectrum.errors import UserError
from quantspectrum.formats import Format, TensorScheme, preset
from quantspectrum.sensitivity.calibration import OpRanges, observe_op_ranges, observe_ranges

CPU = torch.device("cpu")


class Table(nn.Module):
    """Looks its inputs up in a table of known values and hands them to its ops."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = torch.tensor(values)
        self.op = nn.Linear(1, 1)
        self.shifted = nn.Linear(1, 1)
        self.unreached = nn.Linear(1, 1)
        self.flat = nn.Linear(1, 1)

    def forward(self, input_ids: Tensor, use_cache: bool = True, **_mask: Tensor) -> Tensor:
        assert not use_cache
        x = self.values[input_ids][..., None]
        self.flat(x.flatten(0, 1))
        found: Tensor = self.op(x) + self.shifted(x + 100)
        return found


def batch(ids: list[list[int]], mask: list[list[int]] | None = None) -> Batch:
    inputs = {"input_ids": torch.tensor(ids)}
    if mask is not None:
        inputs["attention_mask"] = torch.tensor(mask)
    return Batch(
        inputs=inputs,
        target=torch.zeros(len(ids), len(ids[0]), dtype=torch.bool),
        sample_ids=tuple(map(str, range(len(ids)))),
        kinds=("text",) * len(ids),
    )


VALUES = [0.5, -2.0, 3.0, 1000.0, -7.0]


def test_known_extremes_over_all_batches() -> None:
    found = observe_ranges(
        Table(VALUES), ["op", "shifted"], [batch([[0, 1], [0, 0]]), batch([[2, 0], [0, 0]])], CPU
    )
    assert found == {"op": (-2.0, 3.0), "shifted": (98.0, 103.0)}


def test_ranges_are_those_seen_even_when_zero_is_outside() -> None:
    assert observe_ranges(Table(VALUES), ["op"], [batch([[0, 2]])], CPU) == {"op": (0.5, 3.0)}


@pytest.mark.parametrize("padding", ["right", "left"])
def test_padding_does_not_count(padding: str) -> None:
    ids, mask = [[0, 1, 3], [2, 3, 3]], [[1, 1, 0], [1, 0, 0]]
    if padding == "left":
        ids, mask = [row[::-1] for row in ids], [row[::-1] for row in mask]
    found = observe_ranges(Table(VALUES), ["op", "shifted"], [batch(ids, mask)], CPU)
    assert found == {"op": (-2.0, 3.0), "shifted": (98.0, 103.0)}


def test_the_mask_is_that_of_the_same_batch() -> None:
    batches = [batch([[0, 3]], [[1, 0]]), batch([[3, 1]], [[0, 1]]), batch([[4, 0]])]
    assert observe_ranges(Table(VALUES), ["op"], batches, CPU) == {"op": (-7.0, 0.5)}


def test_an_input_without_the_batchs_dimensions_counts_whole() -> None:
    found = observe_ranges(Table(VALUES), ["flat"], [batch([[0, 3]], [[1, 0]])], CPU)
    assert found == {"flat": (0.5, 1000.0)}


def test_ops_that_are_not_reached_are_absent() -> None:
    found = observe_ranges(Table(VALUES), ["op", "unreached"], [batch([[0]])], CPU)
    assert set(found) == {"op"}


def test_no_data_gives_no_ranges() -> None:
    assert observe_ranges(Table(VALUES), ["op"], [], CPU) == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    model = Table([0.5, value, 1.0])
    batches = [batch([[0, 1, 2]]), batch([[0, 2, 2]])]
    with pytest.raises(UserError, match="op op receives values that are not finite"):
        observe_ranges(model, ["op"], batches, CPU)
    assert models_tiny.hooks(model) == 0


def test_values_that_are_not_finite_in_the_padding_do_no_harm() -> None:
    model = Table([0.5, float("nan")])
    assert observe_ranges(model, ["op"], [batch([[0, 1]], [[1, 0]])], CPU) == {"op": (0.5, 0.5)}


def test_nan_weights_of_a_real_model_are_refused(llama: nn.Module) -> None:
    weight = llama.get_parameter("model.layers.0.mlp.up_proj.weight")
    with torch.no_grad():
        weight[0, 0] = float("nan")
    ops = ["model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"]
    with pytest.raises(UserError, match=r"op model\.layers\.0\.mlp\.down_proj .*check the"):
        observe_ranges(llama, ops, [models_tiny.text_batch()], CPU)


def test_hooks_are_removed() -> None:
    model = Table(VALUES)
    observe_ranges(model, ["op", "flat"], [batch([[0]])], CPU)
    assert models_tiny.hooks(model) == 0


def test_hooks_are_removed_after_an_exception() -> None:
    model = Table(VALUES)

    def fail(_x: Tensor) -> Tensor:
        raise KeyboardInterrupt

    vars(model.shifted)["forward"] = fail
    with pytest.raises(KeyboardInterrupt):
        observe_ranges(model, ["op"], [batch([[0]])], CPU)
    assert models_tiny.hooks(model) == 0


def test_padding_changes_nothing_in_a_real_model(llama: nn.Module) -> None:
    ops = [name for name, module in llama.named_modules() if isinstance(module, nn.Linear)]
    together = models_tiny.text_batch((7, 12))
    alone: list[Batch] = []
    for row, length in enumerate((7, 12)):
        inputs = {key: value[row : row + 1, :length] for key, value in together.inputs.items()}
        alone.append(
            Batch(
                inputs=inputs,
                target=together.target[row : row + 1, :length],
                sample_ids=together.sample_ids[row : row + 1],
                kinds=("text",),
            )
        )
    padded: Any = observe_ranges(llama, ops, [together], CPU)
    separate = observe_ranges(llama, ops, alone, CPU)
    assert set(padded) == set(ops)
    for op in ops:
        assert padded[op] == pytest.approx(separate[op], rel=1e-4, abs=1e-5)


def test_vision_ops_are_observed_with_pictures_only(vl: nn.Module) -> None:
    ops = ["model.visual.blocks.0.attn.qkv", "model.language_model.layers.0.self_attn.q_proj"]
    text = observe_ranges(vl, ops, [models_tiny.text_batch(vision=True)], CPU)
    image = observe_ranges(vl, ops, [models_tiny.image_batch()], CPU)
    assert set(text) == {ops[1]}
    assert set(image) == set(ops)


def doubling(values: list[float]) -> Table:
    """Ops whose output is twice their input plus 1."""
    model = Table(values)
    for op in (model.op, model.shifted, model.flat):
        with torch.no_grad():
            op.weight.fill_(2.0)
            op.bias.fill_(1.0)
    return model


def test_inputs_and_outputs_are_observed_in_one_pass() -> None:
    model, passes = doubling(VALUES), []
    model.register_forward_hook(lambda *_: passes.append(1))
    batches = [batch([[0, 1], [0, 0]]), batch([[2, 0], [0, 0]])]
    found = observe_op_ranges(model, ["op", "unreached"], batches, CPU, preset("inc"))
    assert found == OpRanges(inputs={"op": (-2.0, 3.0)}, outputs={"op": (-3.0, 7.0)})
    assert len(passes) == len(batches)


def test_padding_does_not_count_in_outputs() -> None:
    ids, mask = [[0, 1, 3], [2, 3, 3]], [[1, 1, 0], [1, 0, 0]]
    found = observe_op_ranges(doubling(VALUES), ["op"], [batch(ids, mask)], CPU, preset("inc"))
    assert found.outputs == {"op": (-3.0, 7.0)}


@pytest.mark.parametrize("name", ["w8a8-static", "w8a8-static-affine"])
def test_outputs_are_observed_only_for_formats_that_quantize_them(name: str) -> None:
    found = observe_op_ranges(doubling(VALUES), ["op"], [batch([[0, 1]])], CPU, preset(name))
    assert found == OpRanges(inputs={"op": (-2.0, 0.5)})


def test_inputs_are_observed_only_for_formats_with_static_ones() -> None:
    dynamic = TensorScheme(granularity="token", dynamic=True)
    fmt = Format(name="o", weight=TensorScheme(), activation=dynamic, output=TensorScheme())
    found = observe_op_ranges(doubling(VALUES), ["op"], [batch([[0, 1]])], CPU, fmt)
    assert found == OpRanges(outputs={"op": (-3.0, 2.0)})


@pytest.mark.parametrize("name", ["w8a8", "fp8", "w4a16"])
def test_without_static_ranges_the_model_does_not_run(name: str) -> None:
    def batches() -> Any:
        raise AssertionError
        yield

    assert observe_op_ranges(Table(VALUES), ["op"], batches(), CPU, preset(name)) == OpRanges()


def test_a_percentile_is_that_of_all_batches_without_padding() -> None:
    """99 of 100 values lie in [-2, 3]; 1000 is the one left out, and in the padding."""
    scheme = TensorScheme(observer="percentile", percentile=99.0)
    batches = [
        batch([[0] * 97 + [3, 3, 3]], [[1] * 98 + [0, 0]]),
        batch([[1, 2, 3]], [[1, 1, 0]]),
    ]
    assert observe_ranges(Table(VALUES), ["op"], batches, CPU, scheme) == {"op": (-2.0, 3.0)}
    assert observe_ranges(Table(VALUES), ["op"], batches, CPU) == {"op": (-2.0, 1000.0)}


def test_formats_are_observed_with_the_observers_they_name() -> None:
    # The two largest of 20,000 are left out.
    batches = [batch([[0] * 19_997 + [1, 2, 3]])]
    found = observe_op_ranges(Table(VALUES), ["op"], batches, CPU, preset("w8a8-static-percentile"))
    assert found.inputs == {"op": (-2.0, 2.0)}


def test_outputs_that_are_not_finite_are_refused() -> None:
    model = doubling(VALUES)
    with torch.no_grad():
        model.op.bias.fill_(float("inf"))
    with pytest.raises(UserError, match="op op produces values that are not finite"):
        observe_op_ranges(model, ["op"], [batch([[0, 1]])], CPU, preset("inc"))
    assert models_tiny.hooks(model) == 0
    observe_op_ranges(model, ["op"], [batch([[0, 1]])], CPU, preset("w8a8-static"))
