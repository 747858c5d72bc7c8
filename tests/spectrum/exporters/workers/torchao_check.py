"""torchao: quantize_ and transformers' TorchAoConfig with the exported FqnToConfig."""

import json

import torch
import transformers
from _exchange import read_request, write_result
from _model import load, samples
from torchao.core.config import config_from_dict, config_to_dict
from torchao.quantization import quantize_


def quantized(model):
    kinds = {name: type(parameter) for name, parameter in model.named_parameters()}
    kinds |= {
        name: type(parameter.data)
        for name, parameter in model.named_parameters()
        if kinds[name] is torch.nn.Parameter
    }
    return {n: kind.__name__ for n, kind in kinds.items() if kind is not torch.Tensor}


request = read_request()
config = config_from_dict(json.loads(request["config"]))
result = {"again": config_to_dict(config)}
if request["quantize"]:
    model = load(request)
    quantize_(model, config, filter_fn=None)
    result["quantized"] = quantized(model)
    with torch.no_grad():
        result["finite"] = bool(model(**samples(request)[0]).logits.isfinite().all())
    loaded = load(request, quantization_config=transformers.TorchAoConfig(quant_type=config))
    result["loaded"] = quantized(loaded)
write_result(result)
