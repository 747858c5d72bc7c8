"""A loaded model as lmms-eval sees one.

lmms-eval's own wrappers load a model by name; this one answers with the model that is here, in
the arithmetic it is evaluated in, through the processor and the chat template it came with. Source:
``lmms_eval.api.model.lmms``, of the models it calls simple.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from PIL.Image import Image

from quantspectrum.data.encode import encode_prompts
from quantspectrum.data.sample import Sample
from quantspectrum.errors import UserError
from quantspectrum.evaluate.generation import answer
from quantspectrum.models.loading import Loaded

__all__ = ["generate_until", "lmms_model"]

DEFAULT_NEW_TOKENS = 128


def lmms_model(loaded: Loaded, batch_size: int) -> Any:
    """An ``lmms_eval.api.model.lmms`` that answers with the loaded model."""
    api: Any = import_module("lmms_eval.api.model")

    def generated(self: Any, requests: Sequence[Any]) -> list[str]:
        return generate_until(loaded, requests, self.task_dict, batch_size=batch_size)

    def refused(self: Any, requests: Sequence[Any]) -> Any:  # noqa: ARG001 - the interface's
        raise UserError("this task asks for likelihoods or several turns, which is not supported")

    made = type(
        "LoadedModel",
        (api.lmms,),
        {
            "generate_until": generated,
            "loglikelihood": refused,
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
