"""INC 3.7: PostTrainingQuantConfig of the exported arguments, and which modules it replaced."""

import json

import torch
from _exchange import read_request, write_result
from _model import load, samples

torch.backends.quantized.engine = "qnnpack"

import neural_compressor.adaptor.pytorch as adaptor  # noqa: E402
from neural_compressor import PostTrainingQuantConfig, quantization  # noqa: E402


class Loader:
    def __init__(self, items):
        self.items, self.batch_size = items, 1

    def __iter__(self):
        return iter([(item, item["input_ids"]) for item in self.items])

    def __len__(self):
        return len(self.items)


request = read_request()
model = load(request, attn_implementation="eager")
model.config.use_cache = False
arguments = json.loads(request["config"])
adaptor.REDUCE_RANGE = arguments["reduce_range"]
config = PostTrainingQuantConfig(**arguments)
done = quantization.fit(model, config, calib_dataloader=Loader(samples(request)))
kinds = {
    name: f"{type(module).__module__}.{type(module).__name__}"
    for name, module in done.model.named_modules()
}
quantized = {
    name: kind
    for name, kind in kinds.items()
    if "nn.quantized" in kind and kind.endswith(("Linear", "Conv3d", "LinearReLU"))
}
write_result(
    {
        "quantized": quantized,
        "scales": {
            name: float(module.scale)
            for name, module in done.model.named_modules()
            if name in quantized and hasattr(module, "scale")
        },
        "assigned": {
            key[0]: value["weight"]["dtype"]
            for key, value in done.q_config["op"].items()
            if "weight" in value
        },
        "approach": done.q_config["approach"],
    }
)
