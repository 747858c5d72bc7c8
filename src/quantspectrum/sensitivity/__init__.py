"""Measuring how much each op matters: capture and replay, one file a metric, the journal."""
