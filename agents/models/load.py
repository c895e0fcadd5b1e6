"""Loads tokenizers, and weights onto the CPU, from model folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.core.errors import ModelError, one_line
from agents.models.folders import TOKENIZER_FILES, existing, has_tokenizer

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


DTYPES = ("float32", "bfloat16", "float16")


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder returned by `resolve_model`; its pad token defaults to the eos token.

    Raises:
        ModelError: The tokenizer cannot be loaded, or has no end-of-sequence token.
    """
    folder = existing(path)
    if not has_tokenizer(folder):  # for some model types transformers would create an empty one
        raise ModelError(f"Expect a tokenizer in {folder}, found none of {', '.join(TOKENIZER_FILES)}")
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many classes for broken files
        raise ModelError(f"Expect a tokenizer in {folder}, could not load one: {one_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"Expect the tokenizer in {folder} to name an `eos_token`, which ends an answer; it has none")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(path: str | Path, dtype: str = "float32") -> PreTrainedModel:
    """Load the causal language model of a folder returned by `resolve_model`, on the CPU, in eval mode.

    Args:
        path: The folder.
        dtype: One of :data:`DTYPES`.

    Raises:
        ModelError: Unknown dtype, not a causal language model, or unreadable or incomplete weights.
    """
    if dtype not in DTYPES:
        raise ModelError(f"Expect `dtype` to be one of {', '.join(DTYPES)}, got {dtype!r}")
    folder = existing(path)
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with no_progress_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True
            )
    except Exception as error:
        raise ModelError(f"Expect a causal language model in {folder}: {one_line(error)}") from error
    model: PreTrainedModel
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"Expect all weights of a {type(model).__name__} in {folder}, but {len(missing)} tensors are "
            f"missing, first {missing[0]!r}: does the folder hold another type of model?"
        )
    return model


def load_generation_config(path: str | Path) -> GenerationConfig | None:
    """Load a model's generation config, which names its stop tokens; None if the folder has none."""
    from transformers import GenerationConfig

    folder = existing(path)
    return GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").exists() else None


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide transformers' progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
