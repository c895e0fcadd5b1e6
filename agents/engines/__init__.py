"""Engines sample token ids from a language model; see :mod:`agents.engines.base` for what all of them do."""
