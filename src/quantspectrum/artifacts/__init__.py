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
    check_writable,
    read_artifact,
    sha256_file,
    write_artifact,
    write_text,
)
from quantspectrum.artifacts.histograms import (
    LOWEST,
    OCTAVES,
    Histogram,
    Histograms,
    OpHistograms,
)
from quantspectrum.artifacts.latency import (
    AbsentKernel,
    LatencyEntry,
    LatencyTable,
)
from quantspectrum.artifacts.manifest import (
    Manifest,
    ServingNote,
    Treatment,
    Verification,
    WriterNote,
)
from quantspectrum.artifacts.quality import (
    Additivity,
    AdditivityFit,
    AdditivityPoint,
    Guard,
    GuardedProfile,
    Interval,
    ProfileReading,
    QualityBudget,
    QualitySearch,
    RivalReading,
    Trial,
    Verdict,
)
from quantspectrum.artifacts.run import (
    RunRecord,
    StageState,
)
from quantspectrum.artifacts.runners import (
    DecodeLatency,
    RunnerName,
    RunnerRun,
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
    by_group,
)
from quantspectrum.artifacts.spectrum import (
    CutTies,
    Optimum,
    Profile,
    Source,
    Spectrum,
)
from quantspectrum.artifacts.truth import CurvePoint, GroupTruth, OrderTruth, Truth

__all__ = [
    "LOWEST",
    "OCTAVES",
    "AbsentKernel",
    "Accuracy",
    "Additivity",
    "AdditivityFit",
    "AdditivityPoint",
    "Agreement",
    "Artifact",
    "BenchmarkResult",
    "Coverage",
    "CurvePoint",
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
    "GroupTruth",
    "Guard",
    "GuardedProfile",
    "Histogram",
    "Histograms",
    "Interval",
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
    "OpHistograms",
    "OpNote",
    "OpScore",
    "Optimum",
    "OrderTruth",
    "PairAgreement",
    "Profile",
    "ProfileReading",
    "PromptFidelity",
    "PromptResult",
    "Provenance",
    "QualityBudget",
    "QualitySearch",
    "RankInterval",
    "Record",
    "Rescored",
    "RescoredOp",
    "Resources",
    "RivalReading",
    "RunRecord",
    "RunnerName",
    "RunnerRun",
    "SampleKind",
    "SampleLoss",
    "SensitivityReport",
    "ServingNote",
    "Source",
    "Spectrum",
    "StageState",
    "Treatment",
    "Trial",
    "Truth",
    "Verdict",
    "Verification",
    "WriterNote",
    "YesNo",
    "YesNoScore",
    "by_group",
    "check_writable",
    "read_artifact",
    "sha256_file",
    "write_artifact",
    "write_text",
]
