from __future__ import annotations

import errno
import json
import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import models_tiny
from quantspectrum.backends import checkpoint
from quantspectrum.backends.checkpoint import Entry, staged_directory, total_bytes, write_shards
from quantspectrum.errors import UserError

Usage = namedtuple("Usage", "total used free")
Limit = Callable[[int], AbstractContextManager[None]]


def entry(name: str, tensor: Tensor) -> Entry:
    return Entry(name=name, shape=tuple(tensor.shape), dtype=tensor.dtype, make=lambda: tensor)


def numbered(*sizes: int) -> list[Entry]:
    """Entries of so many bytes each."""
    return [
        entry(f"t{index}", torch.full((size,), index, dtype=torch.uint8))
        for index, size in enumerate(sizes)
    ]


def stage_and_fail(out: Path, error: BaseException) -> None:
    with staged_directory(out, 10) as stage:
        (stage / "half").write_text("half")
        raise error


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_one_shard_has_the_plain_name_and_no_index(tmp_path: Path) -> None:
    write_shards(tmp_path, numbered(10, 20), max_shard_bytes=30)
    assert names(tmp_path) == ["model.safetensors"]
    assert set(load_file(tmp_path / "model.safetensors")) == {"t0", "t1"}


def test_several_shards_and_their_index(tmp_path: Path) -> None:
    write_shards(tmp_path, numbered(10, 20, 5, 31, 1), max_shard_bytes=30)
    shards = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
    assert names(tmp_path) == [*shards, "model.safetensors.index.json"]
    assert [sorted(load_file(tmp_path / shard)) for shard in shards] == [
        ["t0", "t1"],
        ["t2"],
        ["t3"],
        ["t4"],
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 67
    assert index["weight_map"] == dict(
        zip(["t0", "t1", "t2", "t3", "t4"], [shards[i] for i in (0, 0, 1, 2, 3)], strict=True)
    )


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=20), limit=st.integers(1, 80))
def test_packing_keeps_order_and_limit(sizes: list[int], limit: int) -> None:
    entries = numbered(*sizes)
    shards = checkpoint._pack(entries, limit)
    assert [one.name for shard in shards for one in shard] == [one.name for one in entries]
    for shard in shards:
        assert shard
        # A tensor larger than the limit has a shard of its own.
        assert total_bytes(shard) <= limit or len(shard) == 1


def test_total_bytes() -> None:
    assert total_bytes(numbered(3, 4)) == 7
    assert total_bytes([]) == 0


def test_tensors_are_made_one_shard_at_a_time(tmp_path: Path) -> None:
    made: list[str] = []

    def lazily(name: str) -> Entry:
        def make() -> Tensor:
            made.append(f"{name} in shard {len(names(tmp_path))}")
            return torch.zeros(10, dtype=torch.uint8)

        return Entry(name=name, shape=(10,), dtype=torch.uint8, make=make)

    write_shards(tmp_path, [lazily("a"), lazily("b"), lazily("c")], max_shard_bytes=20)
    assert made == [
        "a in shard 1",
        "b in shard 1",
        "c in shard 2",
    ]


def test_views_and_gradients_are_written_as_plain_values(tmp_path: Path) -> None:
    matrix = torch.arange(6.0, requires_grad=True).reshape(2, 3)
    write_shards(tmp_path, [entry("t", matrix.T)])
    assert torch.equal(load_file(tmp_path / "model.safetensors")["t"], matrix.detach().T)


TYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
]


def every_type() -> dict[str, Tensor]:
    made = {str(dtype): torch.arange(-3, 4).to(dtype) for dtype in TYPES}
    return made | {
        "bool": torch.tensor([[True], [False]]),
        "nothing": torch.empty(0, 3),
        "one": torch.tensor(2.5),
    }


def test_files_are_those_safetensors_itself_writes(tmp_path: Path) -> None:
    """Read by the library, and byte for byte what it writes but for the order of equal types."""
    tensors = every_type()
    write_shards(tmp_path, [entry(name, tensor) for name, tensor in tensors.items()])
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert found[name].reshape(-1).view(torch.uint8).tolist() == (
            tensor.reshape(-1).view(torch.uint8).tolist()
        )
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    sizes = [path.stat().st_size for path in (tmp_path / "model.safetensors", tmp_path / "theirs")]
    assert abs(sizes[0] - sizes[1]) < 64


def test_a_tensor_that_is_not_what_was_announced_is_not_written(tmp_path: Path) -> None:
    wrong = Entry(name="t", shape=(3,), dtype=torch.int8, make=lambda: torch.zeros(4).char())
    with pytest.raises(AssertionError, match="t: "):
        write_shards(tmp_path, [wrong])


def test_making_stays_a_bounded_number_of_bytes_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "AHEAD_BYTES", 25)
    written, ahead = [0], []
    original = checkpoint._write_all

    def slow(file: Any, content: Any) -> None:
        time.sleep(0.002)
        original(file, content)
        written[0] += len(content)

    monkeypatch.setattr(checkpoint, "_write_all", slow)

    def lazily(index: int) -> Entry:
        def make() -> Tensor:
            # The header is written first.
            ahead.append(10 * index - (written[0] - header))
            return torch.full((10,), index, dtype=torch.uint8)

        return Entry(name=f"t{index}", shape=(10,), dtype=torch.uint8, make=make)

    entries = [lazily(index) for index in range(30)]
    header = len(checkpoint._header(entries))
    write_shards(tmp_path, entries)
    assert max(ahead) <= 20
    found = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[f"t{i}"], torch.full((10,), i).byte()) for i in range(30))


@pytest.mark.parametrize(("limit", "shards"), [(2**40, 1), (70_000, 7), (1, 21)])
def test_transformers_loads_the_shards(
    llama: nn.Module, tmp_path: Path, limit: int, shards: int
) -> None:
    models_tiny.save(llama, tmp_path / "source")
    out = tmp_path / "out"
    shutil.copytree(tmp_path / "source", out, ignore=shutil.ignore_patterns("*.safetensors"))
    entries = [entry(name, tensor) for name, tensor in llama.state_dict().items()]
    write_shards(out, entries, max_shard_bytes=limit)
    assert len(list(out.glob("*.safetensors"))) == shards
    found: Any = AutoModelForCausalLM.from_pretrained(out).eval()
    batch = models_tiny.text_batch()
    assert torch.equal(models_tiny.logits(found, batch), models_tiny.logits(llama, batch))


def test_a_staged_directory_takes_its_name_when_all_is_done(tmp_path: Path) -> None:
    out = tmp_path / "a/b/variant"
    with staged_directory(out, 10) as stage:
        (stage / "file").write_text("whole")
        assert not out.exists()
        assert stage.parent == out.parent
    assert names(out.parent) == ["variant"]
    assert (out / "file").read_text() == "whole"


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), KeyboardInterrupt(), UserError("x"), MemoryError()]
)
def test_an_exception_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        stage_and_fail(tmp_path / "variant", error)
    assert caught.value is error
    assert names(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match="variant: No space left on device; free space or choose"):
        stage_and_fail(tmp_path / "variant", error)
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_under_the_tensors_leaves_nothing(
    tmp_path: Path, file_size_limit: Limit
) -> None:
    def write() -> None:
        with staged_directory(tmp_path / "variant", 10) as stage:
            write_shards(stage, numbered(100, 100_000), max_shard_bytes=1000)

    with file_size_limit(10_000), pytest.raises(UserError, match=r"cannot write .*; free space"):
        write()
    assert names(tmp_path) == []


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**10, 9 * 10**9, 10**9))
    entered = []
    with (
        pytest.raises(UserError, match=r"needs 2\.00 GB and the disk has 1\.00 GB left; free"),
        staged_directory(tmp_path / "variant", 2 * 10**9),
    ):
        entered.append("entered")
    assert entered == []
    assert names(tmp_path) == []


def test_a_disk_with_just_enough_room_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(100, 90, 10))
    with staged_directory(tmp_path / "variant", 10):
        pass
    assert names(tmp_path) == ["variant"]


@pytest.mark.parametrize("kind", ["directory", "empty directory", "file"])
def test_what_exists_is_refused_and_kept(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "variant"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
    if kind == "directory":
        (out / "mine").write_text("mine")
    with (
        pytest.raises(UserError, match=f"{out} exists already; remove it or choose another --out"),
        staged_directory(out, 10),
    ):
        pass
    assert names(tmp_path) == ["variant"]
    assert kind != "directory" or names(out) == ["mine"]


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    with staged_directory(tmp_path / "variant", 10) as stage:
        name = stage.name
    shutil.rmtree(tmp_path / "variant")
    (tmp_path / name).mkdir()
    (tmp_path / name / "old").write_text("old")
    with staged_directory(tmp_path / "variant", 10) as stage:
        (stage / "new").write_text("new")
    assert names(tmp_path) == ["variant"]
    assert names(tmp_path / "variant") == ["new"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write .*file/variant: .*choose another --out"),
        staged_directory(tmp_path / "file/variant", 10),
    ):
        pass
