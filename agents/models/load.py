"""From a folder to a tokenizer, and to weights on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.core.errors import ModelError
from agents.models.folders import TOKENIZER_FILES, existing, first_line, has_tokenizer

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


DTYPES = ("float32", "bfloat16", "float16")


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder that `resolve_model` returned; pad defaults to eos.

    Raises:
        ModelError: no tokenizer can be loaded, or it has no end-of-sequence token.
    """
    folder = existing(path)
    if not has_tokenizer(folder):  # transformers would make an empty one up for some kinds of model
        raise ModelError(f"Expect a tokenizer in {folder}, found none of {', '.join(TOKENIZER_FILES)}")
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # every kind of broken file has its own exception there
        raise ModelError(f"Expect a tokenizer in {folder}, could not load one: {first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"Expect the tokenizer in {folder} to name an `eos_token`, which ends an answer; it has none")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(path: str | Path, dtype: str = "float32") -> PreTrainedModel:
    """Load the causal language model of a folder that `resolve_model` returned, on the CPU, in eval mode.

    Raises:
        ModelError: unknown dtype, no causal language model, unreadable or incomplete weights.
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
        raise ModelError(f"Expect a causal language model in {folder}: {first_line(error)}") from error
    model: PreTrainedModel
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"Expect all weights of a {type(model).__name__} in {folder}, but {len(missing)} tensors are "
            f"missing, first {missing[0]!r}: is it the folder of another kind of model?"
        )
    return model


def load_generation_config(path: str | Path) -> GenerationConfig | None:
    """Load what a model's makers say of sampling, such as its stop tokens; None if they say nothing."""
    from transformers import GenerationConfig

    folder = existing(path)
    return GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").exists() else None


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing a bar for what takes a moment."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
