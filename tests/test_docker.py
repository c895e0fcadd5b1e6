import json
import re
import shutil
import subprocess

import pytest
import yaml
from paths import ROOT

DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
STAGES = dict(reversed(stage) for stage in re.findall(r"^FROM (\S+) AS (\w+)$", DOCKERFILE, re.MULTILINE))


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    if (hadolint := shutil.which("hadolint")) is None:
        pytest.skip("needs hadolint")
    done = subprocess.run(
        [hadolint, ROOT / "docker/Dockerfile"], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_each_image_is_a_stage_that_ends_as_an_ordinary_user() -> None:
    assert [parent for parent in STAGES.values() if parent not in STAGES] == ["python:3.11-slim-bookworm"]
    for stage in STAGES.keys() - STAGES.values():
        instructions = re.split(
            r"^FROM .*$", DOCKERFILE.partition(f" AS {stage}\n")[2], maxsplit=1, flags=re.MULTILINE
        )[0]
        assert "\nUSER 1000\n" in instructions
        assert "\nRUN" not in instructions.partition("\nUSER")[2]


def test_compose_the_devcontainer_and_the_page_build_stages_of_the_dockerfile() -> None:
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    builds = [service["build"] for service in compose["services"].values()]
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())["build"]
    page = re.findall(r"--target (\w+)", (ROOT / "docs/how-to/containers.md").read_text())
    assert {*page, container["target"], *(build["target"] for build in builds)} == STAGES.keys() - STAGES.values()
    assert {(ROOT / "docker" / build["context"] / build["dockerfile"]).resolve() for build in builds} == {
        (ROOT / ".devcontainer" / container["dockerfile"]).resolve()
    }


def test_the_build_context_holds_files_of_the_checkout() -> None:
    first, *kept, last = (ROOT / "docker/Dockerfile.dockerignore").read_text().split()
    assert (first, last) == ("*", "**/__pycache__")
    assert all((ROOT / line.removeprefix("!")).exists() for line in kept)
