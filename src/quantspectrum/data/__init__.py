"""Calibration, selection, evaluation and prompt sets: loaded, kept apart, encoded."""
