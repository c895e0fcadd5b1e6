"""Uploading a run's last checkpoint to the hub, when the run ends or is stopped."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from agents.core.errors import ConfigError, ServiceError, one_line
from agents.tracking.callbacks import Callback, Run
from agents.training import checkpoint

if TYPE_CHECKING:
    from agents.config.training import TrainConfig

_STAYS_HERE = (f"{checkpoint.TRAINING_STATE}/*", checkpoint.ROLLOUTS, checkpoint.STATE)


class HubUpload(Callback):
    """Makes the repository before training begins, and fills it at the end with model, tokenizer and model card.

    Args:
        config: The run.
        api: The hub; by default that of the token of ``hf auth login`` or ``HF_TOKEN``.

    Raises:
        ConfigError: There is no token, it may not write, or the repository's name is none.
        ServiceError: The hub cannot be reached.
    """

    def __init__(self, config: TrainConfig, api: HfApi | None = None) -> None:
        if api is None and get_token() is None:
            raise ConfigError("Expect a token of the hub for --push-to-hub, got none: hf auth login, or set HF_TOKEN.")
        self._api = api or HfApi()
        name = config.hub_model_id or config.output_dir.resolve().name
        try:
            made = self._api.create_repo(name, private=config.hub_private_repo or None, exist_ok=True)
        except (HfHubHTTPError, HFValidationError) as error:
            raise ConfigError(
                f"Expect a token that may write to the hub's {name!r}, and a valid name, got: {one_line(error)}"
            ) from error
        except Exception as error:  # the HTTP library has classes of its own
            raise ServiceError(
                f"Expect to reach the hub for --push-to-hub, got: {one_line(error)} Leave it out to push later."
            ) from error
        self.repo_id = made.repo_id

    def on_train_end(self, run: Run) -> None:
        """Upload the last checkpoint.

        Raises:
            ServiceError: It cannot be uploaded now; the message has the command that does it later.
        """
        path = checkpoint.checkpoints(run.config.output_dir)[-1]
        try:
            commit = self._api.upload_folder(
                repo_id=self.repo_id,
                folder_path=path,
                ignore_patterns=list(_STAYS_HERE),
                commit_message=f"After step {run.step}",
            )
        except Exception as error:
            excluded = [word for name in _STAYS_HERE for word in ("--exclude", name)]
            later = shlex.join(["hf", "upload", self.repo_id, str(path), ".", *excluded])
            reason = f"{one_line(error)} The run is saved; later: {later}"
            raise ServiceError(f"Expect to push {path}, got: {reason}") from error
        run.log(f"Pushed {path} to {commit.repo_url.url}.")
