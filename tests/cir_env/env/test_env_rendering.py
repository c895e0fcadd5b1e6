"""Rendering of an episode."""

import pytest
from fakes import CODE, FEEDBACK, PROMPT, begun, make

from cir_env.errors import EpisodeError


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
