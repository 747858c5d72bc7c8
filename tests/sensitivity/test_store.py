"""Where captured tensors are kept."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import models_tiny
from quantspectrum.errors import UserError
from quantspectrum.sensitivity import store as stores
from quantspectrum.sensitivity.store import TensorStore, default_limit
from scans import BASES, MIXED, Base, score
from sensitivity.engine_cases import CASES, TOY, Case, Toy, scanned

Limit = Callable[[int], AbstractContextManager[None]]
HUGE = 2**40


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files are made, empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def tensors(count: int = 3, elements: int = 100) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(elements, generator=generator) for _ in range(count)]


def test_within_the_limit_the_tensors_themselves_are_kept(folder: Path) -> None:
    store, given = TensorStore(HUGE), tensors()
    held = store.put({"a": given[0], "b": (given[1], None, 5), "c": [given[2]]})
    found = store.get(held)
    assert found["a"] is given[0]
    assert found["b"] == (given[1], None, 5)
    assert found["c"][0] is given[2]
    assert store.used == {"device": 0, "host": 3 * 400, "disk": 0}
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("limit", "host"), [(0, 0), (399, 0), (400, 1), (800, 2), (1199, 2)])
def test_what_is_beyond_the_limit_goes_to_disk_and_comes_back_equal(
    folder: Path, limit: int, host: int
) -> None:
    store, given = TensorStore(limit), tensors()
    held = [store.put(tensor) for tensor in given]
    assert store.used == {"device": 0, "host": 400 * host, "disk": 400 * (3 - host)}
    assert len(list(folder.rglob("*.safetensors"))) == 3 - host
    for one, tensor in zip(held, given, strict=True):
        assert torch.equal(store.get(one), tensor)


def test_a_small_tensor_still_fits_where_a_large_one_did_not() -> None:
    store = TensorStore(500)
    store.put(torch.zeros(1000))
    store.put(torch.zeros(100))
    assert store.used == {"device": 0, "host": 400, "disk": 4000}


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4).to(torch.bfloat16),
        torch.arange(5),
        torch.tensor([True, False]),
        torch.randn(6, 4).t(),
        torch.randn(8)[::2],
        torch.zeros((), dtype=torch.float64).expand(3, 3),
        torch.zeros(0, 4),
        torch.tensor(2.5),
        torch.tensor([float("nan"), float("inf")]),
    ],
    ids=["bf16", "ids", "mask", "transposed", "strided", "expanded", "empty", "scalar", "nan"],
)
def test_any_tensor_comes_back_from_disk(tensor: Tensor) -> None:
    found = TensorStore.get(store := TensorStore(-1), store.put(tensor))
    assert store.used["disk"] == tensor.numel() * tensor.element_size()
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(found.nan_to_num(7.0), tensor.nan_to_num(7.0))


def test_a_tensor_that_comes_twice_is_stored_once(folder: Path) -> None:
    store, (tensor, other) = TensorStore(0), tensors(2)
    first = store.put((tensor, {"again": tensor}))
    second = store.put([tensor, other])
    assert store.used["disk"] == 800
    assert len(list(folder.rglob("*.safetensors"))) == 2
    assert first[0] is first[1]["again"] is second[0]
    assert torch.equal(store.get(second)[0], tensor)


def test_what_was_freed_is_not_taken_for_what_comes_at_its_address() -> None:
    """A tensor is recognised by its identity, so it must live as long as it is recognised."""
    store = TensorStore(0)
    for value in range(50):
        held = store.put(torch.full((10,), float(value)))
        assert store.get(held)[0].item() == value
    assert store.used["disk"] == 50 * 40


def test_files_go_with_the_store(folder: Path) -> None:
    store = TensorStore(0)
    store.put(tensors())
    assert len(list(folder.iterdir())) == 1
    store.close()
    assert list(folder.iterdir()) == []
    store.close()


def test_files_go_when_the_store_is_forgotten(folder: Path) -> None:
    TensorStore(0).put(tensors())
    gc.collect()
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_the_users_to_mend(folder: Path, file_size_limit: Limit) -> None:
    store = TensorStore(0)
    with (
        file_size_limit(1000),
        pytest.raises(UserError, match=r"cannot keep captured inputs on disk: .*--memory-limit"),
    ):
        store.put(torch.zeros(10_000))
    store.close()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable to the superuser")
def test_a_folder_that_cannot_be_written_is_the_users_to_mend(folder: Path) -> None:
    folder.chmod(0o500)
    with pytest.raises(UserError, match="or set TMPDIR"):
        TensorStore(0).put(torch.zeros(10))


@pytest.mark.parametrize(
    ("limit", "places"),
    [
        (HUGE, {"device": 1200, "host": 0, "disk": 0}),
        (400, {"device": 400, "host": 400, "disk": 400}),
        (800, {"device": 800, "host": 400, "disk": 0}),
    ],
)
def test_of_an_accelerator_host_memory_comes_before_the_disk(
    monkeypatch: pytest.MonkeyPatch, limit: int, places: dict[str, int]
) -> None:
    """With tensors that have a device and a size, but no values."""
    monkeypatch.setattr(TensorStore, "_on_disk", lambda _self, tensor: tensor.cpu)
    with FakeTensorMode():
        given = [torch.empty(100, device="cuda") for _ in range(3)]
        store = TensorStore(limit)
        held = [store.put(tensor) for tensor in given]
        assert store.used == places
        by_place = {place: sum(h.place == place for h in held) * 400 for place in places}
        assert by_place == places
        for one in held:
            assert store.get(one).device.type == "cuda"


def test_the_limit_is_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "free_host_bytes", lambda: 1000)
    assert default_limit(torch.device("cpu")) == 500
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (600, 2000))
    assert default_limit(torch.device("cuda", 0)) == 300


def test_free_memory_is_guessed_where_the_system_does_not_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert 0 < stores.free_host_bytes() < 2**50

    def unknown(_name: str) -> int:
        raise ValueError

    monkeypatch.setattr(os, "sysconf", unknown)
    assert stores.free_host_bytes() == 8 * 2**30


@pytest.mark.parametrize("name", CASES)
def test_replays_from_disk_are_exact(name: str, folder: Path) -> None:
    case = Case(name)
    case.engine._limit = 0
    capture = case.engine.capture(case.batch)
    assert capture.store.used["host"] == 0
    assert capture.store.used["disk"] > 0
    for op in case.reached:
        assert torch.equal(case.engine.replay(capture, op), capture.values), op
    capture.close()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("base", BASES)
def test_a_scan_from_disk_gives_exactly_the_same_scores(
    vl: nn.Module, base: Base, folder: Path
) -> None:
    expected = score(vl, base=base, selection=MIXED)
    report = score(vl, base=base, selection=MIXED, memory_limit=1)
    assert report.ops == expected.ops
    assert report.engine is not None
    assert report.engine.captured_bytes["host"] == 0
    assert report.engine.captured_bytes["disk"] > 0
    assert list(folder.iterdir()) == []


def test_a_scan_that_fails_leaves_no_file(folder: Path) -> None:
    model = models_tiny.causal_lm()
    with pytest.raises(ZeroDivisionError):
        score(model, memory_limit=1, step=lambda: 1 / 0)
    gc.collect()
    assert list(folder.iterdir()) == []


def test_captures_of_the_toy_from_disk() -> None:
    assert scanned(Toy(), TOY, memory_limit=0, slots=4)[0] == scanned(Toy(), TOY, slots=4)[0]
