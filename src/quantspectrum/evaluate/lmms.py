"""A loaded model as lmms-eval sees one.

lmms-eval's own wrappers load a model by name; this one answers with the model that is here, in
the arithmetic it is evaluated in, through the processor and the chat template it came with. Source:
``lmms_eval.api.model.lmms``, of the models it calls simple.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from PIL.Image import Image
from torch.nn.functional import cross_entropy

from quantspectrum.data.encode import encode_for, encode_prompts
from quantspectrum.data.sample import Sample
from quantspectrum.data.tokens import SampleEncoder
from quantspectrum.errors import UserError
from quantspectrum.evaluate.generation import answer
from quantspectrum.evaluate.loss import target_logits
from quantspectrum.models.loading import Loaded

__all__ = ["generate_until", "lmms_model", "losses"]

DEFAULT_NEW_TOKENS = 128


def lmms_model(loaded: Loaded, batch_size: int) -> Any:
    """An ``lmms_eval.api.model.lmms`` that answers with the loaded model."""
    api: Any = import_module("lmms_eval.api.model")

    def generated(self: Any, requests: Sequence[Any]) -> list[str]:
        return generate_until(loaded, requests, self.task_dict, batch_size=batch_size)

    def likely(self: Any, requests: Sequence[Any]) -> list[Any]:
        found = losses(loaded, requests, self.task_dict, batch_size=batch_size)
        # lmms-eval 0.7 makes a text of any bare pair, which its own metrics then cannot read.
        instance: Any = import_module("lmms_eval.api.instance")
        return [instance.GenerationResult(text=pair) for pair in found]

    def refused(self: Any, requests: Sequence[Any]) -> Any:  # noqa: ARG001 - the interface's
        raise UserError("this task asks for several turns, which is not supported")

    made = type(
        "LoadedModel",
        (api.lmms,),
        {
            "generate_until": generated,
            "loglikelihood": likely,
            "generate_until_multi_round": refused,
            "batch_size": batch_size,
        },
    )
    return made()


def generate_until(
    loaded: Loaded, requests: Sequence[Any], tasks: Any, *, batch_size: int
) -> list[str]:
    """Greedy answers to requests, in their order, each cut at its first stop text.

    Args:
        loaded: The model.
        requests: Instances with ``args`` of ``(context, generation options, document to pictures,
            document id, task, split)``.
        tasks: Task and split to documents.
        batch_size: Requests a forward pass.

    Raises:
        UserError: A request shows more than one picture.
    """
    samples: list[Sample] = []
    options: list[dict[str, Any]] = []
    for number, request in enumerate(requests):
        context, given, pictures_of, document, task, split = request.args
        samples.append(
            Sample(
                id=str(number),
                text="",
                prompt=context.replace("<image>", "").strip(),
                image=_picture(pictures_of(tasks[task][split][document]), task),
            )
        )
        options.append(dict(given))
    found: dict[str, str] = {}
    for length in sorted({_length(one) for one in options}):
        own = [
            sample for sample, one in zip(samples, options, strict=True) if _length(one) == length
        ]
        batches = encode_prompts(own, loaded.processor, batch_size=batch_size)
        answers = answer(loaded, batches, max_new_tokens=length)
        found.update({key: one.text for key, one in answers.items()})
    return [_cut(found[str(number)], one.get("until")) for number, one in enumerate(options)]


@torch.inference_mode()
def losses(
    loaded: Loaded, requests: Sequence[Any], tasks: Any, *, batch_size: int
) -> list[tuple[float, bool]]:
    """Mean loss of each request's continuation, in nats per token, and whether it is the greedy one.

    lmms-eval calls this ``loglikelihood`` and takes the *smallest* for the model's choice
    (``ConfigurableTask.process_results``): what it wants is the loss. The token that ends the answer
    is not counted.

    Args:
        loaded: The model.
        requests: Instances with ``args`` of ``(context, continuation, document to pictures, document
            id, task, split)``; a continuation may be a function of the document.
        tasks: Task and split to documents.
        batch_size: Requests a forward pass.

    Raises:
        UserError: A request shows more than one picture, or none of a document.
    """
    samples = []
    for number, request in enumerate(requests):
        if len(request.args) != 6:
            raise UserError("this task asks for likelihoods without a document; not supported")
        context, continuation, pictures_of, document, task, split = request.args
        doc = tasks[task][split][document]
        told = continuation(doc) if callable(continuation) else continuation
        samples.append(
            Sample(
                id=str(number),
                text=str(told).strip(),
                prompt=context.replace("<image>", "").strip(),
                image=_picture(pictures_of(doc), task),
            )
        )
    ends = SampleEncoder(loaded.processor).ends_turns
    found: dict[str, tuple[float, bool]] = {}
    for batch in encode_for(loaded, samples, batch_size=batch_size):
        logits, ids = target_logits(loaded, batch)
        counts = batch.target[:, 1:].sum(1).tolist()
        parts = torch.split(logits, counts), torch.split(ids, counts)
        rows = zip(batch.sample_ids, *parts, strict=True)
        for sample, scores, tokens in rows:
            kept = max(1, len(tokens) - ends)
            loss = cross_entropy(scores[:kept].float(), tokens[:kept])
            greedy = bool((scores[:kept].argmax(-1) == tokens[:kept]).all())
            found[sample] = float(loss), greedy
    return [found[str(number)] for number in range(len(samples))]


def _picture(pictures: Any, task: str) -> Image | None:
    shown = [picture for picture in pictures or () if picture is not None]
    if len(shown) > 1 or any(not isinstance(picture, Image) for picture in shown):
        raise UserError(f"task {task} shows several pictures or a video, which is not supported")
    return shown[0] if shown else None


def _length(options: dict[str, Any]) -> int:
    return int(options.get("max_new_tokens") or DEFAULT_NEW_TOKENS)


def _cut(text: str, until: Any) -> str:
    stops = [until] if isinstance(until, str) else list(until or ())
    # An empty line at the very start is no end of an answer.
    places = [place for stop in stops if stop and (place := text.find(stop)) > 0]
    return text[: min(places)] if places else text
