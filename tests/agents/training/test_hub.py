"""Uploads to the hub, replaced by a fake server."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi, constants

from agents.config.training import TrainConfig
from agents.core.errors import ConfigError, ServiceError
from agents.training.hub import HubUpload


class Hub(BaseHTTPRequestHandler):
    """The four requests of an upload of small files; one token has write access."""

    files: dict[str, bytes]
    made: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != "Bearer hf_may_write":
            self._answer({"error": "Invalid username or password."}, status=401)
        elif self.path == "/api/repos/create":
            self.made.append(json.loads(body))
            self._answer({"url": f"http://{self.headers['Host']}/me/{json.loads(body)['name']}"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.path.startswith("/api/models/me/mine/preupload/"):
            files = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        elif self.path.startswith("/api/models/me/mine/commit/"):
            for operation in map(json.loads, body.splitlines()):
                if operation["key"] == "file":
                    self.files[operation["value"]["path"]] = base64.b64decode(operation["value"]["content"])
            address = f"http://{self.headers['Host']}/me/mine"
            self._answer({"commitOid": "0" * 40, "commitUrl": f"{address}/commit/{'0' * 40}", "success": True})
        else:
            self._answer({"error": f"unknown: {self.path}"}, status=404)

    def do_GET(self) -> None:
        self._answer({"error": "not found"}, status=404)

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    Hub.files, Hub.made = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def config(folder: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(output_dir=folder, push_to_hub=True, hub_model_id="me/mine", **changes)


def checkpoint(folder: Path) -> Path:
    path = folder / "checkpoint-3"
    path.mkdir(parents=True)
    (path / "training_state").mkdir()
    for name in ("model.safetensors", "README.md", "training_state/__0_0.distcp", "rollouts.json"):
        (path / name).write_text(name)
    (path / "trainer_state.json").write_text('{"step": 3}')
    return path


def test_the_last_checkpoint_is_uploaded_without_training_state(tmp_path: Path, endpoint: str) -> None:
    path = checkpoint(tmp_path)
    lines: list[str] = []
    trainer: Any = SimpleNamespace(config=config(tmp_path, hub_private_repo=True), step=3, log=lines.append)
    HubUpload(trainer.config, HfApi(endpoint, token="hf_may_write")).on_train_end(trainer)
    assert Hub.files == {"model.safetensors": b"model.safetensors", "README.md": b"README.md"}
    assert [(each["name"], each["visibility"]) for each in Hub.made] == [("mine", "private")]
    assert lines == [f"Pushed {path} to {endpoint}/me/mine."]


def test_a_token_without_write_access_is_rejected_before_training(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^Expect a valid repository 'me/mine' and a token with write access to it, got: .*401"
    ):
        HubUpload(config(tmp_path), HfApi(endpoint, token="hf_other"))


def test_a_missing_token_is_rejected_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.training.hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match=r"^Expect a hub token for --push-to-hub, got none: run hf auth login or"):
        HubUpload(config(tmp_path))


def test_without_a_network_training_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(
        ServiceError, match=r"^Expect to reach the hub for --push-to-hub, got: .* Drop the flag to push later"
    ):
        HubUpload(config(tmp_path), HfApi("http://127.0.0.1:9", token="hf_may_write"))


def test_a_failed_upload_prints_the_command_to_repeat_it(
    tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint(tmp_path)
    trainer: Any = SimpleNamespace(config=config(tmp_path), step=3, log=print)
    upload = HubUpload(trainer.config, HfApi(endpoint, token="hf_may_write"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ServiceError) as caught:
        upload.on_train_end(trainer)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(
        f"The run is saved; push it later with: hf upload me/mine {path} . --exclude 'training_state/*' "
        "--exclude rollouts.json --exclude trainer_state.json"
    )
