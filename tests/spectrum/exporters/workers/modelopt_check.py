"""ModelOpt: mtq.quantize with the exported configuration, and which quantizers are enabled."""

import modelopt.torch.quantization as mtq
import yaml
from _exchange import read_request, write_result
from _model import load, samples

request = read_request()
model = load(request)
batches = samples(request)


def forward(model):
    for batch in batches:
        model(**batch)


mtq.quantize(model, yaml.safe_load(request["config"]), forward)
found = {}
for name, module in model.named_modules():
    if isinstance(module, mtq.nn.TensorQuantizer) and module.is_enabled:
        amax = getattr(module, "_amax", None)
        found[name] = {
            "num_bits": module.num_bits,
            "axis": module.axis,
            "block_sizes": {str(k): v for k, v in (module.block_sizes or {}).items()},
            "dynamic": module._dynamic,
            "scales": None if amax is None else amax.numel(),
        }
write_result({"enabled": found})
