"""Uploads a run's last checkpoint to the hub when the run ends or is stopped."""

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

_NOT_UPLOADED = (f"{checkpoint.TRAINING_STATE}/*", checkpoint.ROLLOUTS, checkpoint.STATE)


class HubUpload(Callback):
    """Creates the repository before training, and uploads model, tokenizer and model card at the end.

    Args:
        config: The run's configuration.
        api: Client of the hub; by default one with the token of ``hf auth login`` or ``HF_TOKEN``.

    Raises:
        ConfigError: No token, a token without write access, or an invalid repository name.
        ServiceError: The hub cannot be reached.
    """

    def __init__(self, config: TrainConfig, api: HfApi | None = None) -> None:
        if api is None and get_token() is None:
            raise ConfigError("Expect a hub token for --push-to-hub, got none: run hf auth login or set HF_TOKEN.")
        self._api = api or HfApi()
        name = config.hub_model_id or config.output_dir.resolve().name
        try:
            made = self._api.create_repo(name, private=config.hub_private_repo or None, exist_ok=True)
        except (HfHubHTTPError, HFValidationError) as error:
            raise ConfigError(
                f"Expect a valid repository {name!r} and a token with write access to it, got: {one_line(error)}."
            ) from error
        except Exception as error:  # the HTTP library has its own classes
            raise ServiceError(
                f"Expect to reach the hub for --push-to-hub, got: {one_line(error)}. Drop the flag to push later."
            ) from error
        self.repo_id = made.repo_id

    def on_train_end(self, run: Run) -> None:
        """Upload the last checkpoint.

        Raises:
            ServiceError: The upload failed; the message has the command to repeat it.
        """
        path = checkpoint.checkpoints(run.config.output_dir)[-1]
        try:
            commit = self._api.upload_folder(
                repo_id=self.repo_id,
                folder_path=path,
                ignore_patterns=list(_NOT_UPLOADED),
                commit_message=f"After step {run.step}",
            )
        except Exception as error:
            excluded = [word for name in _NOT_UPLOADED for word in ("--exclude", name)]
            later = shlex.join(["hf", "upload", self.repo_id, str(path), ".", *excluded])
            raise ServiceError(
                f"Could not push {path}: {one_line(error)}. The run is saved; push it later with: {later}"
            ) from error
        run.log(f"Pushed {path} to {commit.repo_url.url}.")
