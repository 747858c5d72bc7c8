"""Running a model as if some of its ops were quantized, without changing the model.

A :class:`Simulation` replaces the forward of the planned ops while it is entered. An op that is
*active* computes with its input and weight fake-quantized (and its output where the format says
so); one that is not computes as before. The model's own weights are never written, and a quantized
weight exists only while its op computes, unless there is room to keep integer codes.
"""

from quantspectrum.simulation.context import Simulation
from quantspectrum.simulation.plan import InputQuantizer, OpPlan, Part, serving_input_quantizer
from quantspectrum.simulation.products import op_error

__all__ = ["InputQuantizer", "OpPlan", "Part", "Simulation", "op_error", "serving_input_quantizer"]
