"""What was measured of a variant."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from quantspectrum.artifacts.base import Artifact, Provenance, Record
from quantspectrum.artifacts.fidelity import Fidelity, Flips, NoiseFloor, PromptFidelity
from quantspectrum.artifacts.runners import DecodeLatency, RunnerRun

__all__ = [
    "Accuracy",
    "BenchmarkResult",
    "Evaluation",
    "Kernel",
    "Loss",
    "LossOf",
    "PromptResult",
    "Resources",
    "SampleLoss",
    "YesNo",
    "YesNoScore",
]

Kernel = Literal["native", "emulated", "torchao", "onnxruntime", "vllm"]
"""What multiplied: high precision, fake-quantized high precision, or a library's integer kernels."""


LossOf = Literal["tokens", "classes", "baseline's classes"]


class SampleLoss(Record):
    """Sums over one sample's target tokens.

    Attributes:
        nll: Negative log-likelihood, in nats.
        kl: KL divergence from the baseline's predictions, in nats; ``None`` for the baseline.
        same_top: Tokens at which the likeliest next token is the baseline's.
    """

    id: str
    kind: Literal["text", "image+text", "image"]
    nll: float
    tokens: int
    kl: float | None = None
    same_top: int | None = None


class Loss(Record):
    """Mean loss per target token, in nats, with its standard error clustered by sample.

    Attributes:
        of: What is to be predicted: ``tokens``; ``classes``, one a sample, which the samples name;
            or ``baseline's classes``, those that the baseline takes, where the samples name none.
            One sample is then one token.
    """

    loss: float
    stderr: float | None
    tokens: int
    samples: tuple[SampleLoss, ...]
    of: LossOf = "tokens"


class Accuracy(Record):
    """Share of generated answers equal to a reference, with its standard error.

    Attributes:
        correct: Sample id to whether its answer was right.
        answers: Sample id to its answer as it is compared; ``None`` in files of schema 1.
    """

    exact: float
    stderr: float | None
    correct: dict[str, bool]
    answers: dict[str, str] | None = None


class YesNoScore(Record):
    """Answers to yes/no questions, ``yes`` being the positive class.

    Attributes:
        accuracy: Share of right answers; one that is neither yes nor no is wrong.
        stderr: Its standard error, clustered by picture.
        precision: Of the answers yes, the share that is right; ``None`` without any.
        recall: Of the questions whose answer is yes, the share answered so.
        f1: Harmonic mean of the two.
        yes_rate: Share of questions answered yes.
        undecided: Answers that are neither.
        answers: Sample id to ``yes``, ``no`` or ``None``.
    """

    accuracy: float
    stderr: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    yes_rate: float
    undecided: int
    answers: dict[str, Literal["yes", "no"] | None]


class YesNo(Record):
    """Yes/no questions, answered by the next token's logits and by generating.

    Attributes:
        questions: How many.
        truth: Sample id to the right answer.
        by_logits: Which of the two has more probability right after the prompt, all spellings
            (case, leading space) together.
        by_answer: The first ``yes`` or ``no`` among the words of the greedy answer.
        margins: Sample id to ``log p(yes) - log p(no)``, nats.
    """

    questions: int
    truth: dict[str, Literal["yes", "no"]]
    by_logits: YesNoScore
    by_answer: YesNoScore
    margins: dict[str, float]


class BenchmarkResult(Record):
    """One task of a benchmark harness, as the harness reports it.

    Attributes:
        harness: ``lm-eval`` or ``lmms-eval``.
        harness_version: Its version.
        task: Name of the task.
        task_version: The task's own version, where it has one.
        samples: Questions asked, where the harness says.
        fewshot: Examples before each question, where the harness says.
        metrics: Metric (with the harness's filter, ``acc,none``) to value.
        stderr: The same to the harness's standard errors.
    """

    harness: Literal["lm-eval", "lmms-eval"]
    harness_version: str
    task: str
    task_version: str | None
    samples: int | None
    fewshot: int | None
    metrics: dict[str, float]
    stderr: dict[str, float]


class PromptResult(Record):
    """A prompt, what the model answered (greedy), and the picture shown, as a small data URI.

    Attributes:
        tokens: Ids of the answer's tokens, up to the end of the turn; ``None`` in files of
            schema 1.
        departs_at: Place of the first token that is not the baseline's, from 0; an answer that
            ends early departs at its end. ``None`` where all are the same, and for the baseline.
        similarity: One minus the edit distance from the baseline's tokens over the longer
            length; ``None`` for the baseline.
    """

    id: str
    prompt: str
    output: str
    reference: str | None = None
    image: str | None = None
    tokens: tuple[int, ...] | None = None
    departs_at: int | None = None
    similarity: float | None = None


class Resources(Record):
    """What running a variant takes.

    Attributes:
        disk_bytes: Size of the weight files.
        load_s: Time to load it.
        kernel: What really multiplied. ``emulated`` INT8 multiplies fake-quantized numbers in high
            precision: its times say nothing of INT8 on a serving engine.
        latency: One entry per batch size and prompt length.
        weight_bytes: Type a tensor is stored in (``int8``, ``bfloat16``) to the bytes of all such
            in the weight files; where those are not at hand, of the weights in memory. ``None`` in
            files of schema 1, as the next three.
        matmuls: What one forward pass dispatched: ATen operator with the types of its operands
            (``aten.mm(bfloat16, bfloat16)``) to the number of calls.
        peak_host_bytes: Most resident memory of the process so far.
        peak_device_bytes: Most device memory allocated during the stage; ``None`` on the CPU.
    """

    disk_bytes: int
    load_s: float
    kernel: Kernel
    latency: tuple[DecodeLatency, ...]
    weight_bytes: dict[str, int] | None = None
    matmuls: dict[str, int] | None = None
    peak_host_bytes: int | None = None
    peak_device_bytes: int | None = None


class Evaluation(Artifact):
    """What was measured of one variant, or of the baseline.

    Files of schema 1 are read too; what they lack is ``None`` or empty.

    Attributes:
        label: Name shown in reports.
        profile: Name of the variant's profile; ``None`` for any other model.
        provenance: Where and on what it was measured.
        loss: Loss over the evaluation samples.
        accuracy: Exact match over the samples with references.
        prompts: Prompts with their answers.
        resources: What running it takes.
        fidelity: Statistics against the baseline, of all samples and of each kind apart; empty
            for the baseline.
        noise: The baseline against itself; empty for a variant, whose figures hold their floor.
        flips: Answers against the baseline's.
        yes_no: Yes/no questions, where the data have any.
        yes_no_flips: Their answers by logits, against the baseline's.
        prompt_fidelity: Answers to the prompts against the baseline's.
        benchmarks: Tasks of benchmark harnesses.
        runners: The same model timed by libraries with real integer kernels.
        predictions: Name of the file beside this one that holds the tokens' predictions.
        phases_s: What the time went to, in seconds.
    """

    KIND: ClassVar[str] = "evaluation"
    VERSION: ClassVar[int] = 2
    schema_version: Literal[1, 2] = 2
    kind: Literal["evaluation"] = "evaluation"
    label: str
    profile: str | None
    provenance: Provenance
    loss: Loss
    accuracy: Accuracy | None
    prompts: tuple[PromptResult, ...]
    resources: Resources
    fidelity: tuple[Fidelity, ...] = ()
    noise: tuple[NoiseFloor, ...] = ()
    flips: Flips | None = None
    yes_no: YesNo | None = None
    yes_no_flips: Flips | None = None
    prompt_fidelity: PromptFidelity | None = None
    benchmarks: tuple[BenchmarkResult, ...] = ()
    runners: tuple[RunnerRun, ...] = ()
    predictions: str | None = None
    phases_s: dict[str, float] | None = None

    @classmethod
    def migrated(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """A file of schema 1 as one of schema 2 that lacks what was not measured then."""
        return raw | {"schema_version": 2} if raw.get("schema_version") == 1 else raw
