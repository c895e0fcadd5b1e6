"""Rendering of an episode."""

import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from fakes import CODE, FEEDBACK, PROMPT, begun, fakes, make
from gymnasium.wrappers import AddRenderObservation, HumanRendering, RecordVideo

from cir_env.episode.rendering import draw
from cir_env.errors import EpisodeError

OUTSIDE = "moviepy needs an older pillow than verifiers: pip install -e '.[video]' in an environment of its own"


def test_ansi_rendering_returns_the_transcript_and_then_the_outcome() -> None:
    env = begun(render_mode="ansi")
    env.step(CODE)
    assert env.render() == PROMPT + CODE + FEEDBACK
    env.step("\\boxed{7}")
    assert env.render() == PROMPT + CODE + FEEDBACK + "\\boxed{7}\n[reward -1: answer '7', right '6']\n"


def test_human_rendering_prints_the_transcript_once_as_it_grows(capsys: pytest.CaptureFixture[str]) -> None:
    env = begun(render_mode="human")
    assert capsys.readouterr().out == PROMPT
    env.step(CODE)
    assert env.render() is None
    assert capsys.readouterr().out == CODE + FEEDBACK
    env.step("\\boxed{6}")
    assert capsys.readouterr().out == "\\boxed{6}\n[reward +1: answer '6', right '6']\n"


def test_human_rendering_escapes_what_the_terminal_cannot_encode(capsys: pytest.CaptureFixture[str]) -> None:
    begun(render_mode="human").step("\ud800")
    assert "\\ud800" in capsys.readouterr().out


def test_human_rendering_escapes_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    begun(render_mode="human").step("```python\nprint('\\x1b[2J', '\\x9b', 'a\\tb')\n```\n")
    assert "```output\n\\x1b[2J \\x9b a\tb\n```" in capsys.readouterr().out


def test_rendering_without_a_mode_warns() -> None:
    with pytest.warns(UserWarning, match="Expect a `render_mode` to render, got None"):
        assert begun().render() is None


def test_rendering_before_a_reset_is_rejected() -> None:
    with pytest.raises(EpisodeError) as caught:
        make(render_mode="ansi").render()
    assert str(caught.value) == "Expect an episode to render, got an environment that is not reset yet."


def test_images_have_one_shape_and_show_what_was_written() -> None:
    env = begun(render_mode="rgb_array")
    before = env.render()
    env.step(CODE)
    after = env.render()
    assert before.shape == after.shape == (660, 960, 3)
    assert (before != after).any()
    assert (after == draw(PROMPT + CODE + FEEDBACK)).all()


def test_long_lines_are_wrapped_and_the_last_lines_shown() -> None:
    assert (draw("x" * 81) == draw("x" * 80 + "\nx")).all()
    assert (draw("y\n" * 5 + "x\n" * 29 + "x") == draw("x\n" * 29 + "x")).all()


def test_characters_without_a_picture_are_shown_as_escapes() -> None:
    assert (draw("π\x1b🙂\ud800") == draw(r"\u03c0\x1b\U0001f642\ud800")).all()
    assert (draw("é²") != draw("??")).any()


def test_an_image_without_pillow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    env = begun(render_mode="rgb_array")
    with pytest.raises(ImportError, match=r'pip install -e "\.\[render\]"'):
        env.render()


@pytest.mark.parametrize("name", ["CodeMath-v0", "CodeMathTokens-v0"])
def test_images_can_be_observations_and_lists(name: str) -> None:
    env = AddRenderObservation(gymnasium.make(name, render_mode="rgb_array"))
    assert env.reset(seed=0)[0] in env.observation_space
    frames = gymnasium.make(name, render_mode="rgb_array_list")
    frames.reset(seed=0)
    assert [frame.shape for frame in frames.render()] == [(660, 960, 3)]  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["CodeMath-v0", "CodeMathTokens-v0"])
def test_videos_can_be_recorded_and_windows_shown(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moviepy", reason=OUTSIDE)
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = RecordVideo(gymnasium.make(name, render_mode="rgb_array"), str(tmp_path))
    HumanRendering(gymnasium.make(name, render_mode="rgb_array")).reset(seed=0)
    env.reset(seed=0)
    env.step("\\boxed{7}" if name == "CodeMath-v0" else np.int64(0))
    env.close()
    assert [path.suffix for path in tmp_path.glob("*.mp4")] == [".mp4"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_vector_environment_can_be_recorded(tmp_path: Path) -> None:
    pytest.importorskip("moviepy", reason=OUTSIDE)
    envs = gymnasium.make_vec("CodeMath-v0", num_envs=2, render_mode="rgb_array", **fakes())
    recorded = gymnasium.wrappers.vector.RecordVideo(envs, str(tmp_path))
    recorded.reset(seed=0)
    recorded.step(("\\boxed{7}", CODE))  # type: ignore[arg-type]
    recorded.close()
    assert [path.suffix for path in tmp_path.glob("*.mp4")] == [".mp4"]
