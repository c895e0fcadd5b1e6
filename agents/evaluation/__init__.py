"""Runs of an evaluation: play problems, store samples, compute metrics, compare runs."""
