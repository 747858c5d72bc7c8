"""The records every stage reads and writes: frozen, versioned, complete in themselves.

A record on disk is UTF-8 JSON. It is written to a temporary file beside its destination and
renamed, so that a reader never meets half a record. Reading refuses unknown versions, unknown
keys and records of another kind.
"""

from __future__ import annotations

from quantspectrum.artifacts.agreement import (
    Agreement,
    Disagreement,
    LensEntry,
    PairAgreement,
    RankInterval,
)
from quantspectrum.artifacts.base import (
    Artifact,
    DataIdentity,
    Environment,
    ModelIdentity,
    Provenance,
    Record,
)
from quantspectrum.artifacts.evaluation import (
    Accuracy,
    BenchmarkResult,
    DecodeLatency,
    Evaluation,
    Kernel,
    Loss,
    PromptResult,
    Resources,
    SampleLoss,
    YesNo,
    YesNoScore,
)
from quantspectrum.artifacts.fidelity import (
    Fidelity,
    Figure,
    Flips,
    KlKind,
    NoiseFloor,
    PromptFidelity,
    SampleKind,
)
from quantspectrum.artifacts.files import (
    read_artifact,
    sha256_file,
    write_artifact,
    write_text,
)
from quantspectrum.artifacts.latency import (
    AbsentKernel,
    LatencyEntry,
    LatencyTable,
)
from quantspectrum.artifacts.run import (
    RunRecord,
    StageState,
)
from quantspectrum.artifacts.sensitivity import (
    Coverage,
    EngineNote,
    FrameworkNote,
    Op,
    OpNote,
    OpScore,
    Rescored,
    RescoredOp,
    SensitivityReport,
)
from quantspectrum.artifacts.spectrum import (
    CutTies,
    Manifest,
    Optimum,
    Profile,
    Source,
    Spectrum,
    Treatment,
    Verification,
    WriterNote,
)

__all__ = [
    "AbsentKernel",
    "Accuracy",
    "Agreement",
    "Artifact",
    "BenchmarkResult",
    "Coverage",
    "CutTies",
    "DataIdentity",
    "DecodeLatency",
    "Disagreement",
    "EngineNote",
    "Environment",
    "Evaluation",
    "Fidelity",
    "Figure",
    "Flips",
    "FrameworkNote",
    "Kernel",
    "KlKind",
    "LatencyEntry",
    "LatencyTable",
    "LensEntry",
    "Loss",
    "Manifest",
    "ModelIdentity",
    "NoiseFloor",
    "Op",
    "OpNote",
    "OpScore",
    "Optimum",
    "PairAgreement",
    "Profile",
    "PromptFidelity",
    "PromptResult",
    "Provenance",
    "RankInterval",
    "Record",
    "Rescored",
    "RescoredOp",
    "Resources",
    "RunRecord",
    "SampleKind",
    "SampleLoss",
    "SensitivityReport",
    "Source",
    "Spectrum",
    "StageState",
    "Treatment",
    "Verification",
    "WriterNote",
    "YesNo",
    "YesNoScore",
    "read_artifact",
    "sha256_file",
    "write_artifact",
    "write_text",
]
