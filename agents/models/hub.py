"""Models from the Hugging Face hub and from its cache."""

from __future__ import annotations

import threading
from pathlib import Path

from agents.core.errors import ModelError, one_line
from agents.models.folders import Log, missing_part

HUB_TIMEOUT_S = 3.0


HUB_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.txt", "tokenizer.model")


def hub_cached(name: str) -> Path | None:
    """Return the snapshot folder of `name` in the hub's cache if it is complete; never uses the network."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):  # not cached, or not a valid hub name, which `hub_problem` reports
        return None
    return folder if missing_part(folder) is None else None


def hub_problem(name: str) -> str | None:
    """Return in a few words why the hub cannot provide `name`; None if it can.

    Takes at most about `HUB_TIMEOUT_S`: the request runs in its own thread because name resolution has no timeout.
    """
    from huggingface_hub import HfApi

    answer: list[str | None] = []

    def ask() -> None:
        try:
            HfApi().model_info(name, timeout=HUB_TIMEOUT_S)
            answer.append(None)
        except Exception as error:
            answer.append(one_line(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_S + 1)
    return answer[0] if answer else f"no answer in {HUB_TIMEOUT_S:g} s"


def hub_download(name: str, log: Log) -> Path:
    """Download a model into the hub's cache and return its folder.

    Raises:
        ModelError: The download fails, or the repository is not a transformers model.
    """
    from huggingface_hub import snapshot_download

    log(f"model: downloading {name} from the hub ...")
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(HUB_PATTERNS)))
    except Exception as error:
        raise ModelError(f"Downloading {name!r} from the hub failed, try again: {one_line(error)}") from error
    missing = missing_part(folder)
    if missing is not None:
        raise ModelError(f"Expect {name!r} on the hub to be a transformers model, but it has no {missing}")
    log(f"model: {name} from the hub, {folder}")
    return folder
