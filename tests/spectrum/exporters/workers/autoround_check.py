"""AutoRound: quantize and export with the exported arguments, and what the checkpoint then holds."""

import json
from pathlib import Path

import torch
from _exchange import read_request, write_result
from _model import load, samples
from auto_round import AutoRound
from safetensors import safe_open
from transformers import AutoTokenizer

request = read_request()
model = load(request)
tokenizer = AutoTokenizer.from_pretrained(request["model"])
data = [batch["input_ids"] for batch in samples(request)]
rounder = AutoRound(
    model,
    tokenizer,
    **json.loads(request["config"]),
    iters=0,
    nsamples=len(data),
    seqlen=data[0].shape[1],
    batch_size=1,
    dataset=data,
    device_map="cpu",
    enable_torch_compile=False,
    disable_opt_rtn=True,
    low_cpu_mem_usage=False,
    amp=False,
)
rounder.quantize_and_save("out", format="llm_compressor")
(config,) = Path("out").rglob("config.json")
kinds = {}
for shard in config.parent.glob("*.safetensors"):
    with safe_open(shard, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no dict
            kinds[name] = file.get_slice(name).get_dtype()
write_result(
    {
        "tensors": kinds,
        "quantization_config": json.loads(config.read_text())["quantization_config"],
        "threads": torch.get_num_threads(),
    }
)
