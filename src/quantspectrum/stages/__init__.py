"""The stages: each a function from files to files. ``run`` is these in a row.

========================  ==========================  ========================================
stage                     command                     writes
========================  ==========================  ========================================
:func:`sensitivity`       ``sensitivity``             the native lens's reports
:func:`lens_sensitivity`  ``sensitivity --lens``      another lens's report
:func:`histograms`        a stage of ``run``          shapes of weights and inputs
:func:`latency`           ``latency``                 times of ops on this device
:func:`spectrum`          ``spectrum``                profiles
:func:`find_quality`      ``spectrum --max-quality``  the profile that a quality budget allows
:func:`guard`             ``guard``                   profiles beside rivals of equal size
:func:`truth`             ``truth``                   damage of each group and of each order
:func:`quantize`          ``quantize``                a variant's checkpoint
:func:`evaluate`          ``evaluate``                what is measured of a model or variant
========================  ==========================  ========================================

What a stage is asked is in :mod:`quantspectrum.stages.requests`.
"""

from __future__ import annotations

from quantspectrum.stages.distributions import histograms, histograms_path
from quantspectrum.stages.evaluations import evaluate, evaluation_session
from quantspectrum.stages.ground_truth import truth
from quantspectrum.stages.guarding import guard
from quantspectrum.stages.lenses import lens_paths, lens_sensitivity, parse_lens_options
from quantspectrum.stages.profiles import latency, spectrum
from quantspectrum.stages.requests import (
    Base,
    DataRequest,
    MeasuringRequest,
    OpsRequest,
    ScoringRequest,
    TreatmentOptions,
)
from quantspectrum.stages.scoring import sensitivity, stopped
from quantspectrum.stages.searching import (
    DEFAULT_TRIALS,
    check_name,
    check_searchable,
    find_quality,
    quality_path,
)
from quantspectrum.stages.variants import quantize

__all__ = [
    "DEFAULT_TRIALS",
    "Base",
    "DataRequest",
    "MeasuringRequest",
    "OpsRequest",
    "ScoringRequest",
    "TreatmentOptions",
    "check_name",
    "check_searchable",
    "evaluate",
    "evaluation_session",
    "find_quality",
    "guard",
    "histograms",
    "histograms_path",
    "latency",
    "lens_paths",
    "lens_sensitivity",
    "parse_lens_options",
    "quality_path",
    "quantize",
    "sensitivity",
    "spectrum",
    "stopped",
    "truth",
]
