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
    DecodeLatency,
    Evaluation,
    Loss,
    PromptResult,
    Resources,
    SampleLoss,
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
    ServingNote,
    Source,
    Spectrum,
    Treatment,
    Verification,
)

__all__ = [
    "AbsentKernel",
    "Accuracy",
    "Agreement",
    "Artifact",
    "Coverage",
    "CutTies",
    "DataIdentity",
    "DecodeLatency",
    "Disagreement",
    "EngineNote",
    "Environment",
    "Evaluation",
    "FrameworkNote",
    "LatencyEntry",
    "LatencyTable",
    "LensEntry",
    "Loss",
    "Manifest",
    "ModelIdentity",
    "Op",
    "OpNote",
    "OpScore",
    "Optimum",
    "PairAgreement",
    "Profile",
    "PromptResult",
    "Provenance",
    "RankInterval",
    "Record",
    "Rescored",
    "RescoredOp",
    "Resources",
    "RunRecord",
    "SampleLoss",
    "SensitivityReport",
    "ServingNote",
    "Source",
    "Spectrum",
    "StageState",
    "Treatment",
    "Verification",
    "read_artifact",
    "sha256_file",
    "write_artifact",
    "write_text",
]
