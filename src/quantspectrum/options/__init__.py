"""The options of the command line, in groups that several commands share."""

from quantspectrum.options.heeding import check_heeded
from quantspectrum.options.scoring import lens_options, scoring_options
from quantspectrum.options.shared import (
    answer_options,
    common_options,
    data_options,
    loading_options,
    ops_options,
    tracking_options,
)
from quantspectrum.options.spectra import (
    budget_options,
    cuts_options,
    export_options,
    latency_options,
    quality_options,
)
from quantspectrum.options.values import OptionParser, few, positive, seed
from quantspectrum.options.variants import backend_options, measuring_options, writing_options

__all__ = [
    "OptionParser",
    "answer_options",
    "backend_options",
    "budget_options",
    "check_heeded",
    "common_options",
    "cuts_options",
    "data_options",
    "export_options",
    "few",
    "latency_options",
    "lens_options",
    "loading_options",
    "measuring_options",
    "ops_options",
    "positive",
    "quality_options",
    "scoring_options",
    "seed",
    "tracking_options",
    "writing_options",
]
