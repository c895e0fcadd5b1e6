"""Converts a GGUF file into a folder in the layout of ``transformers``, once."""

from __future__ import annotations

import glob
import hashlib
import re
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.core.errors import ModelError, one_line
from agents.models.folders import Log, build_once, missing_part
from agents.models.gguf.header import ROPE_FACTORS, GgufHeader, read_header
from agents.models.load import load_tokenizer, no_progress_bars

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

SUFFIX = ".gguf"
_CONVERSION = "1"
"""Changes when this code gives another folder for the same file."""
_PACKAGES = ("gguf", "accelerate")


def is_gguf(name: str) -> bool:
    """Return whether a model's name is a GGUF file, or a pattern for several parts of one.

    >>> is_gguf("x/model.Q8_0.gguf"), is_gguf("x/part*.bin"), is_gguf("Qwen/Qwen3-8B-GGUF")
    (True, True, False)
    """
    return name.lower().endswith(SUFFIX) or glob.has_magic(name) or Path(name).expanduser().is_file()


def open_gguf(name: str, cache: Path, log: Log) -> Path:
    """Return the folder into which a GGUF file was converted, now or before.

    Args:
        name: The file, or a pattern such as ``parts/*.bin`` for parts that are joined in the order of their names,
            numbers by their value.
        cache: Where the folder is kept; the file's SHA-256 names it.
        log: Receives single lines.

    Raises:
        ModelError: The file cannot be read or converted.
    """
    parts = _parts(name)
    _expect_packages()
    try:
        digest = sha256_of(parts, _CONVERSION.encode())
        target = cache / f"gguf-{digest[:32]}"
        if missing_part(target) is None:
            log(f"model: {name}, already converted into {target}")
            return target

        def build(folder: Path) -> None:
            file = parts[0] if len(parts) == 1 else join(parts, folder.parent / "joined")
            log(f"model: converting {name} to safetensors, only once (a minute for each billion parameters) ...")
            convert(file, folder)

        build_once(target, build)
    except OSError as error:
        raise ModelError(f"Cannot read {name}: {one_line(error)}.") from error
    log(f"model: {name}, converted into {target}")
    return target


def convert(file: Path, folder: Path) -> None:
    """Convert a GGUF file to bfloat16 safetensors, with tokenizer and chat template.

    Raises:
        ModelError: The file is damaged, or what it holds is not supported.
    """
    from transformers import GenerationConfig

    from agents.models.gguf.config import token_id

    _expect_packages()
    header, config, tokenizer = describe(file)
    with no_progress_bars():
        model = _load(header, config, folder.parent)
        ends = {token_id(header, name) for name in ("eos", "eot", "eom")} - {None}
        model.generation_config = GenerationConfig(
            bos_token_id=config.bos_token_id, eos_token_id=sorted(ends) or None, pad_token_id=config.pad_token_id
        )
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _check_saved(tokenizer, folder)


def describe(file: Path) -> tuple[GgufHeader, PreTrainedConfig, PreTrainedTokenizerFast]:
    """Return what a file says of its model: header, configuration and tokenizer.

    Raises:
        ModelError: The file is damaged, or what it holds is not supported.
    """
    from agents.models.gguf.config import config_of
    from agents.models.gguf.tokenizer import tokenizer_of

    try:
        header = read_header(file)
        config = config_of(header)
        return header, config, tokenizer_of(header, config.max_position_embeddings)
    except ModelError:
        raise
    except Exception as error:  # damaged metadata are numbers where there should be text, and more of that kind
        raise ModelError(f"Expect a GGUF file with valid metadata, got {file}: {one_line(error)}.") from error


def join(parts: Sequence[Path], target: Path) -> Path:
    """Write files one after the other into `target`, and return it."""
    with target.open("wb") as sink:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, sink, 1 << 20)
    return target


def sha256_of(parts: Sequence[Path], more: bytes = b"") -> str:
    """Return the SHA-256 of files, one after the other, and of more bytes behind them."""
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    digest.update(more)
    return digest.hexdigest()


def _parts(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    found = [Path(each) for each in glob.glob(str(path)) if Path(each).is_file()]
    if not found:
        raise ModelError(f"Expect `model` to be a GGUF file, or a pattern for its parts, got {name!r}: no such file.")
    return sorted(found, key=lambda part: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", part.name)])


def _expect_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ModelError(f"Expect {' and '.join(_PACKAGES)}, to read GGUF: run `pip install {' '.join(missing)}`.")


def _load(header: GgufHeader, config: PreTrainedConfig, scratch: Path) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    link = scratch / "model.gguf"  # transformers wants a file of this name
    link.symlink_to(header.path.resolve())
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            scratch,
            gguf_file=link.name,
            config=config,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises many classes for broken files
        raise ModelError(f"Expect weights that transformers can load, got {header.path}: {one_line(error)}.") from error
    model: PreTrainedModel
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"Expect all weights of a {type(model).__name__} in {header.path}, found no {missing[0]}.")
    held = sum(parameter.numel() for parameter in model.parameters())
    there = sum(torch.Size(shape).numel() for name, shape in header.shapes.items() if name != ROPE_FACTORS)
    if held != there:
        raise ModelError(
            f"Expect a file with the {held} weights of a {type(model).__name__}, got {there}: "
            "it has tensors that transformers ignores."
        )
    if header.rope_factors is not None:
        _check_positions(model, header.rope_factors)
    return model


def _check_positions(model: Any, factors: Sequence[float]) -> None:
    """Compare the frequencies of a model's rotary positions with the file's factors."""
    import torch

    found = model.get_decoder().rotary_emb.inv_freq.double()
    exponents = torch.arange(len(found), dtype=torch.float64) / len(found)
    plain = model.config.rope_parameters["rope_theta"] ** -exponents
    wanted = torch.tensor(factors, dtype=torch.float64)
    if wanted.shape != found.shape or not torch.allclose(plain / found, wanted, rtol=1e-3):
        raise ModelError("Expect positions as in Llama 3.1 with `rope_freqs.weight`, got other factors.")


def _check_saved(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Check that transformers loads the tokenizer that was saved: for some types of models it builds its own."""
    wanted, found = (each.backend_tokenizer for each in (tokenizer, load_tokenizer(folder)))
    for name in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        states = [None if (part := getattr(each, name)) is None else part.__getstate__() for each in (wanted, found)]
        if states[0] != states[1]:
            raise ModelError(f"Expect the file's {name} {states[0]!r}, but transformers gives the model {states[1]!r}.")
    if wanted.get_vocab() != found.get_vocab():
        raise ModelError("Expect the file's vocabulary, but transformers gives the model another one.")
