"""Models from the Hugging Face hub, or from its cache."""

from __future__ import annotations

import threading
from pathlib import Path

from agents.core.errors import ModelError
from agents.models.folders import Log, first_line, missing_part

HUB_TIMEOUT_S = 3.0


HUB_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.txt", "tokenizer.model")


def hub_cached(name: str) -> Path | None:
    """Return the snapshot folder of `name` in the hub's cache if it is complete, without any network."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):  # not there; or `name` is no hub name, which `hub_problem` will say
        return None
    return folder if missing_part(folder) is None else None


def hub_problem(name: str) -> str | None:
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
            answer.append(first_line(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_S + 1)
    return answer[0] if answer else f"no answer in {HUB_TIMEOUT_S:g} s"


def hub_download(name: str, log: Log) -> Path:
    """Download a model into the hub's cache and return its folder.

    Raises:
        ModelError: The download fails, or what came is not a model.
    """
    from huggingface_hub import snapshot_download

    log(f"model: downloading {name} from the hub ...")
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(HUB_PATTERNS)))
    except Exception as error:
        raise ModelError(f"Downloading {name!r} from the hub failed, try again: {first_line(error)}") from error
    missing = missing_part(folder)
    if missing is not None:
        raise ModelError(f"Expect {name!r} on the hub to be a transformers model, but it has no {missing}")
    log(f"model: {name} from the hub, {folder}")
    return folder
