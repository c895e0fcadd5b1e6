import time

import huggingface_hub

from agents.models import find, hub
from agents.models.find import resolve_model
from agents.models.hub import hub_cached, hub_problem


def test_a_hub_that_never_answers_times_out(monkeypatch):
    class Hanging:
        def model_info(self, name: str, timeout: float) -> None:
            time.sleep(3)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hanging)
    monkeypatch.setattr(hub, "HUB_TIMEOUT_S", 0.05)
    started = time.perf_counter()
    assert hub_problem("a/b") == "no answer in 0.05 s"
    assert time.perf_counter() - started < 2.5


def test_a_complete_snapshot_in_the_hubs_cache_is_used(folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, local_files_only: str(folder))
    lines: list[str] = []
    assert resolve_model("some/model", log=lines.append) == folder
    assert lines == [f"model: some/model from the hub's cache, {folder}"]


def test_an_incomplete_snapshot_in_the_hubs_cache_is_ignored(folder, monkeypatch):
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, local_files_only: str(folder))
    assert hub_cached("some/model") is None


def test_a_model_that_the_hub_has_is_downloaded(folder, monkeypatch):
    monkeypatch.setattr(find, "hub_cached", lambda name: None)
    monkeypatch.setattr(find, "hub_problem", lambda name: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(folder))
    lines: list[str] = []
    assert resolve_model("some/model", log=lines.append) == folder
    assert lines[-1] == f"model: some/model from the hub, {folder}"
