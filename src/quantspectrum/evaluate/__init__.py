"""Measuring a variant: loss, accuracy, prompts, resources."""
