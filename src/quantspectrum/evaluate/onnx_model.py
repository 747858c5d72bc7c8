"""A variant that is an ONNX graph, as a model that everything here can measure.

ONNX Runtime computes the logits; PyTorch holds nothing but what goes in and comes out. Graphs of
backend ``onnx`` keep no keys and values: each further token is a pass over the whole text.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from quantspectrum.artifacts import Manifest, read_artifact, sha256_file
from quantspectrum.errors import UserError, in_one_line
from quantspectrum.models import adapter_for
from quantspectrum.models.adapter import Layout
from quantspectrum.models.generic import GenericAdapter
from quantspectrum.models.loading import Loaded, ModelSpec, load_config, load_processor

__all__ = ["GRAPH", "OnnxModel", "is_onnx_variant", "load_onnx_variant", "need_onnxruntime"]

GRAPH = "model.onnx"

_PRODUCTS = ("MatMul", "Gemm", "Conv", "Attention")


def is_onnx_variant(model: str) -> bool:
    """Whether a directory holds an ONNX graph in place of safetensors files."""
    directory = Path(model)
    return (directory / GRAPH).is_file() and not any(directory.glob("*.safetensors"))


def need_onnxruntime() -> Any:
    """The package.

    Raises:
        UserError: It is not installed.
    """
    try:
        import onnx  # noqa: F401 - weights are read with it
        import onnxruntime
    except ImportError:
        raise UserError(
            "this needs ONNX Runtime, which is not installed: pip install 'quantspectrum[onnx]'"
        ) from None
    return onnxruntime


class OnnxModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A graph of tokens, or of pictures alone, to logits, run by ONNX Runtime on the CPU.

    What ONNX Runtime does by default is measured; no option of its sessions changes the products.
    """

    config_class = PretrainedConfig
    main_input_name = "input_ids"
    # There is no attention here; without this, PyTorch's would be refused.
    _supports_sdpa = True

    def __init__(self, config: PretrainedConfig, path: Path) -> None:
        super().__init__(config)
        self.path = path
        self.session = self._open()
        # What PyTorch's code asks for the type and the device.
        self.empty = nn.Parameter(torch.empty(0), requires_grad=False)
        self.generation_config.use_cache = False

    def _open(self, profile: str | None = None) -> Any:
        runtime = need_onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        try:
            return runtime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        # ONNX Runtime's own exceptions have no common base that it makes public.
        except Exception as error:
            told = in_one_line(error, 200)
            raise UserError(f"ONNX Runtime cannot load {self.path}: {told}") from error

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutput:
        """Logits of every position, ``(batch, tokens, vocabulary)``; padding may be on either side.

        The graph counts positions from the first column, so that padding on the left goes to the
        right before, and what comes out goes back. Of pictures alone, ``(batch, classes)``.

        Raises:
            UserError: There is a picture with a text, which no such graph takes.
        """
        if input_ids is None:
            assert pixel_values is not None
            (classes,) = self.session.run(["logits"], {"pixel_values": pixel_values.numpy()})
            return CausalLMOutput(logits=torch.from_numpy(classes))
        if pixel_values is not None:
            raise UserError(f"{self.path} takes text alone: give --data text:FILE")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        shift = mask.argmax(-1, keepdim=True)
        columns = torch.arange(mask.shape[1]).expand_as(mask)
        there = (columns + shift) % mask.shape[1]
        fed = {"input_ids": input_ids.gather(1, there), "attention_mask": mask.gather(1, there)}
        names = {one.name for one in self.session.get_inputs()}
        (found,) = self.session.run(
            ["logits"], {name: value.numpy() for name, value in fed.items() if name in names}
        )
        logits = torch.from_numpy(found)
        back = (columns - shift) % mask.shape[1]
        return CausalLMOutput(logits=logits.gather(1, back[..., None].expand_as(logits)))

    def _example(self) -> dict[str, Tensor]:
        """Four tokens, or one picture of the one size that the graph takes."""
        for one in self.session.get_inputs():
            if one.name == "pixel_values":
                return {"pixel_values": torch.zeros((1, *one.shape[1:]))}
        return {"input_ids": torch.zeros((1, 4), dtype=torch.long)}

    def files(self) -> list[Path]:
        """The graph, and where its weights lie apart their file."""
        return sorted(self.path.parent.glob(f"{self.path.name}*"))

    def weight_bytes(self) -> dict[str, int]:
        """Bytes of the graph's constants by type."""
        import onnx

        sizes: Counter[str] = Counter()
        for one in onnx.load(str(self.path), load_external_data=False).graph.initializer:
            kind = onnx.helper.tensor_dtype_to_np_dtype(one.data_type)
            count = 1
            for side in one.dims:
                count *= side
            sizes[str(kind)] += count * kind.itemsize
        return dict(sorted(sizes.items()))

    def products(self) -> dict[str, int]:
        """Nodes that ONNX Runtime ran in a pass of four tokens or one picture, from its own profile.

        Each is named with the type of its first input; ``MatMulIntegerToFloat``, ``QLinearMatMul``
        and ``DynamicQuantizeMatMul`` multiply integers, ``MatMul`` of float32 does not.
        """
        example = self._example()
        with tempfile.TemporaryDirectory() as work:
            usual, self.session = self.session, self._open(str(Path(work) / "profile"))
            try:
                self(**example)
                events = json.loads(Path(self.session.end_profiling()).read_text("utf-8"))
            finally:
                self.session = usual
        found: Counter[str] = Counter()
        for event in events:
            told = event.get("args", {})
            name = told.get("op_name", "")
            if not event["name"].endswith("_kernel_time") or not any(p in name for p in _PRODUCTS):
                continue
            types = [kind for one in told.get("input_type_shape", ()) for kind in one]
            found[f"{name}({types[0] if types else '?'})"] += 1
        return dict(sorted(found.items()))


def load_onnx_variant(spec: ModelSpec) -> Loaded:
    """A variant of backend ``onnx``.

    Raises:
        UserError: ONNX Runtime is absent, the directory lacks a manifest, the graph is broken, or
            another device or type is asked for.
    """
    directory = Path(spec.model)
    if spec.device not in ("auto", "cpu") or spec.dtype not in ("auto", "float32"):
        raise UserError(
            f"{spec.model} is an ONNX graph in float32, run on the CPU: leave out --device and --dtype"
        )
    if spec.device_map is not None or spec.gguf_file is not None:
        raise UserError(
            f"{spec.model} is an ONNX graph, whose weights are not spread or replaced: leave out "
            "--device-map and --gguf-file"
        )
    if not (directory / "manifest.json").is_file():
        raise UserError(
            f"{spec.model} holds an ONNX graph but no manifest.json; variants are written by "
            "`quantspectrum quantize --backend onnx`"
        )
    need_onnxruntime()
    manifest = read_artifact(directory / "manifest.json", Manifest)
    config = load_config(spec)
    adapter = adapter_for(config)
    processor = load_processor(spec, adapter)
    if manifest.writer is not None and manifest.writer.components:
        # The language model alone of one that sees pictures: a text model, for all that follows.
        adapter, processor = GenericAdapter("causal-lm"), processor.tokenizer
    model = OnnxModel(config, directory / GRAPH)
    source = manifest.provenance.model
    return Loaded(
        model=model.eval(),
        processor=processor,
        config=config,
        adapter=adapter,
        layout=Layout(components={}, stacks=(), head=None),
        identity=source.model_copy(
            update={
                "id": directory.resolve().name,
                "revision": None,
                "weights_fingerprint": sha256_file(directory / GRAPH),
            }
        ),
        device=torch.device("cpu"),
        spec=spec,
        storage_dtype=torch.float32,
    )
