"""What a run shows while it goes, on a terminal of 80 columns and without one, and when it has ended."""

import fcntl
import io
import os
import re
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from runs import small
from tqdm import tqdm

from agents import Callback, Trainer
from agents.config.training import TrainConfig
from agents.tracking.callbacks import Run
from agents.tracking.progress import Progress

METRICS = {"accuracy": 0.703125, "reward": 0.40625, "tools/use_ratio": 0.984375, "tokens_per_second": 585.3}


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> Iterator[list[str]]:
    """Let stderr be a terminal; at the end, the list holds the lines that were drawn on it."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    lines: list[str] = []
    with os.fdopen(theirs, "w") as screen, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        yield lines
    text = b""
    with os.fdopen(ours, "rb", buffering=0) as drawn, suppress(OSError):  # which is how a terminal ends
        while more := drawn.read(1 << 16):
            text += more
    lines += [re.sub(r"\x1b\[[0-9]*[A-Za-z]", "", line).rstrip() for line in re.split(r"[\r\n]+", text.decode())]


def train(config: TrainConfig, **arguments: Any) -> None:
    with closing(Trainer(config, **{"log": lambda _: None, **arguments})) as trainer:
        trainer.train()


def show(progress: Progress) -> None:
    """A validation and a step."""
    on_end = progress.phase("validation 2 of 3, greedy: episode", 64)
    for each in range(9):
        on_end(each)
    progress.begin()
    progress.phase("phase 1 of 2, sampling: episode", 64)
    progress.end_step(METRICS)


def test_all_figures_are_seen_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    with terminal(monkeypatch, 80) as lines, Progress(60, 50, log=pytest.fail) as progress:
        for bar in (progress._steps, progress._phase):
            bar.mininterval = 0
        progress._steps.start_t -= 5 * 3600
        show(progress)
    assert max(map(len, lines)) <= 80
    step = next(line for line in lines if "accuracy" in line)
    assert re.match(r"step 51/60 .* \d+:\d\d:\d\d<.*, accuracy 0.703, reward 0.406, code 0.984", step)
    assert any(re.match(r"validation 2 of 3, greedy: episode 9/64 .* \d\d:\d\d<\d\d:\d\d$", line) for line in lines)
    assert any(line.startswith("phase 1 of 2, sampling: episode 0/64 ") for line in lines)


def test_without_a_terminal_each_step_is_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with Progress(12, 3, log=lines.append) as progress:
        show(progress)
    assert lines == ["Step 4 of 12 after 00:00: accuracy 0.703, reward 0.406, code 0.984, tok/s 585"]
    assert capfd.readouterr().err == ""


def test_a_finished_run_says_what_it_has_gained(tmp_path: Path) -> None:
    lines: list[str] = []
    train(small(tmp_path, validation={"greedy": True, "text_prompt": None}), log=lines.append)
    *_, sampled, greedy, time, page = lines
    share = r"\d+\.\d \[\d+\.\d, \d+\.\d\]"
    assert re.fullmatch(rf"Held-out accuracy, sampled, %: {share} -> {share} \(problems: 1\)", sampled)
    assert greedy.startswith("Held-out accuracy, greedy, %: ")
    assert re.fullmatch(r"Time: \d\d:\d\d, warm-up included\.", time)
    assert page == f"Curves and transcripts: python evaluate.py report {tmp_path} --output {tmp_path}.html"


def test_a_stopped_run_has_no_summary(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_step_end(self, run: Run, *_: object) -> None:
            run.stop()

    lines: list[str] = []
    train(small(tmp_path), log=lines.append, callbacks=[Stop()])
    assert not [line for line in lines if line.startswith("Time: ")]


def test_the_remaining_time_excludes_the_first_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, per_step = 0.0, []

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    class Bar(tqdm):  # type: ignore[type-arg]
        """A bar whose time is ours."""

        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, file=Terminal(), **more)
            self._time = lambda: now
            self.start_t = self.last_print_t = now

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            shows = self.format_dict
            if self.desc == "step":
                per_step.append(1 / shows["rate"] if shows["rate"] else shows["elapsed"] / self.n)
            return shown

    class Clock(Callback):
        def on_validation(self, *_: Any) -> None:
            nonlocal now
            now += 100

        def on_step_end(self, *_: Any) -> None:
            nonlocal now
            now += 2 if now < 150 else 6

    monkeypatch.setattr("agents.tracking.progress.tqdm", Bar)
    train(small(tmp_path, validation={"every": 1}), callbacks=[Clock()])
    assert per_step == [2, pytest.approx((2 + 100 + 6) / 2)]  # there is a validation between the steps
