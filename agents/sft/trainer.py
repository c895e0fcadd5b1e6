"""The loop of supervised fine-tuning: transcripts in, a checkpoint of ``train.py`` out."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from agents.core import distributed
from agents.core.chat import Chat
from agents.core.errors import ConfigError
from agents.core.files import read_metrics
from agents.core.programs import shell_command, this_command
from agents.core.types import Purpose, seed_of
from agents.learning.batching import collate_tokens
from agents.learning.optimizer import check_optimizer
from agents.learning.supervised import Supervised
from agents.models.devices import pick_device
from agents.models.find import resolve_model
from agents.models.load import load_tokenizer
from agents.sft.transcripts import Encoded, encode, hold_out, read_transcripts
from agents.tracking.model_card import HELD_OUT, fine_tuned_card, save_card
from agents.tracking.progress import Progress
from agents.tracking.run_log import RunLog
from agents.tracking.trackers import MetricsLog, check_installed, open_log
from agents.training import checkpoint, run_folder
from agents.training.build import open_policy
from agents.training.stop_request import StopRequest

if TYPE_CHECKING:
    from agents.config.sft import SFTConfig


def check(config: SFTConfig, *, log: Callable[[str], Any]) -> None:
    """Check all that needs no model, and log what the transcripts are.

    Raises:
        ConfigError, RunError: As for :func:`agents.sft.transcripts.read_transcripts`, or a library is missing.
    """
    _check_libraries(config)
    log(read_transcripts(config).in_words())


def _check_libraries(config: SFTConfig) -> None:
    check_installed(config.report_to)
    check_optimizer(config.optimizer)


class SupervisedTrainer:
    """Trains a policy on transcripts; the order of these is a function of seed and step, so a run resumes exactly.

    Args:
        config: The run.
        log: Takes lines for the user, in the first process.
    """

    def __init__(self, config: SFTConfig, *, log: Callable[[str], Any] = tqdm.write) -> None:
        self.config = config
        _check_libraries(config)
        self._begin = time.perf_counter()
        self.device = distributed.start(pick_device(config.device))
        self._run_log = RunLog(log if distributed.rank() == 0 else None)
        self.log: Callable[[str], Any] = self._run_log
        self.stop_request = StopRequest(self.log)
        reading = read_transcripts(config)
        with distributed.first_of_node_first():
            started = run_folder.open_folder(config, self._run_log)
            with self._run_log.noting_errors():
                model = None if config.lora.rank else started  # with LoRA a checkpoint holds the adapters alone
                path = model or resolve_model(config.model, log=self.log)
        run_folder.check_same(started, config.output_dir)
        with self._run_log.noting_errors():
            # transcripts
            variables = json.loads(config.chat_template_kwargs)
            tokenizer = load_tokenizer(path)
            self.chat = Chat(tokenizer, config.template, template_kwargs=variables, dialect=config.env.dialect)
            encoded, reading = encode(reading, self.chat, config.max_length)
            self._digest = hashlib.sha256(repr([each.token_ids for each in encoded]).encode()).hexdigest()
            self.train_set, self.held_out = hold_out(encoded, config.held_out_share, seed=config.seed)
            self._data = f"{reading.in_words()} Held out: {len(self.held_out)}."
            self.log(self._data)
            self._steps_per_epoch = math.ceil(len(self.train_set) / config.batch_size)
            self.max_steps = config.num_epochs * self._steps_per_epoch
            # policy and optimizer
            longest = max(len(each.token_ids) for each in encoded)
            policy = open_policy(config, path, self.device, longest=longest, log=self.log)
            self.learner = Supervised(policy, config.optimizer, max_steps=self.max_steps)
            self.step = 0 if started is None else self._restore(started)

    def train(self) -> bool:
        """Run to the last step; return False if the run was asked to stop before, with a checkpoint either way."""
        progress = Progress(self.max_steps, self.step, log=self.log)
        with (
            self._run_log.noting_errors(),
            self.stop_request.on_signals(),
            open_log(self.config, self.step, warn=self.log) as log,
        ):
            with progress:
                if self.step == 0:
                    self._evaluate(log)
                progress.begin()
                while self.step < self.max_steps and not self.stop_request.anywhere():
                    self._train_step(log, progress)
            self.log(f"Checkpoint after step {self.step}: {self.save()}")
        if self.step == self.max_steps and distributed.rank() == 0:
            self._conclude()
        return self.step == self.max_steps

    def save(self) -> Path:
        """Write a checkpoint of the last step, with its model card; return where it is."""
        config = self.config
        path = checkpoint.save(
            config.output_dir,
            policy=self.learner.policy,
            tokenizer=self.chat.tokenizer,
            optimizer=self.learner.optimizer,
            state={"step": self.step, "config": run_folder.settings(config), "transcripts": self._digest},
            rollouts=[],
            keep=config.save_total_limit,
            lora=config.lora if config.lora.rank else None,
        )
        if distributed.rank() == 0:
            rows = read_metrics(config.output_dir / "metrics.jsonl")
            about: dict[str, Any] = {"step": self.step, "command": this_command(), "data": self._data}
            save_card(path, lambda: fine_tuned_card(config, rows, **about), log=self.log)
        return path

    def close(self) -> None:
        """Leave the other processes."""
        distributed.stop()

    def _restore(self, path: Path) -> int:
        """Restore the run from a checkpoint; return its number of steps."""
        state = checkpoint.read_json(path / checkpoint.STATE)
        if state["transcripts"] != self._digest:
            raise ConfigError(f"Expect the transcripts of the run in {self.config.output_dir}, got others.")
        checkpoint.load_training_state(path, policy=self.learner.policy, optimizer=self.learner.optimizer)
        self.log(f"Resuming after step {state['step']}.")
        return int(state["step"])

    def _train_step(self, log: MetricsLog | None, progress: Progress) -> None:
        begin = time.perf_counter()
        metrics = self.learner.update(collate_tokens(_tokens(self._batch(self.step))), step=self.step)
        self.step += 1
        if not metrics["num_updates"]:
            self.log(f"Warning: skipped step {self.step}, whose loss or gradient is not finite.")
        metrics["step_time"] = time.perf_counter() - begin
        if log is not None:
            log.write(self.step, metrics)
        every = self.config.eval_every
        if self.step == self.max_steps or (every and self.step % every == 0):
            self._evaluate(log)
        if self.step < self.max_steps and self.step % self.config.save_every == 0:
            self.save()
        progress.end_step(metrics)

    def _batch(self, step: int) -> list[Encoded]:
        """Return the transcripts of a step; each epoch has them all, in another order."""
        epoch, place = divmod(step, self._steps_per_epoch)
        generator = torch.Generator().manual_seed(seed_of(self.config.seed, Purpose.TRANSCRIPTS, epoch))
        order = torch.randperm(len(self.train_set), generator=generator).tolist()
        size = self.config.batch_size
        return [self.train_set[index] for index in order[place * size : (place + 1) * size]]

    def _evaluate(self, log: MetricsLog | None) -> None:
        if not self.held_out:
            return
        loss = self.learner.evaluate(collate_tokens(_tokens(self.held_out)))
        if log is not None:
            log.write(self.step, {HELD_OUT: loss})
        self.log(f"Held-out loss after step {self.step}: {loss:.4f}")

    def _conclude(self) -> None:
        """Log what came of it, and how to go on."""
        config, env = self.config, self.config.env
        rows = read_metrics(config.output_dir / "metrics.jsonl")
        losses = {row["step"]: row[HELD_OUT] for row in rows if HELD_OUT in row}
        if losses:
            first, last = (f"{losses[step]:.4f}" for step in (0, self.max_steps))
            self.log(f"Held-out loss, nats per token: {first} -> {last} (transcripts: {len(self.held_out)})")
        self.log(f"Time: {tqdm.format_interval(time.perf_counter() - self._begin)}.")
        model = checkpoint.path_of(config.output_dir, self.step)
        flags = ["--model", model, "--template", config.template, "--env.problems", env.problems]
        flags += ["--env.prompt", env.prompt, "--env.dialect", env.dialect]
        self.log(f"Measure it: {shell_command('evaluate', flags)}")
        after = ["quickstart", *flags, "--output-dir", f"{config.output_dir}-rl"]
        self.log(f"Train it further: {shell_command('train', after)}")


def _tokens(transcripts: Sequence[Encoded]) -> list[tuple[Sequence[int], Sequence[bool]]]:
    return [(each.token_ids, each.action_mask) for each in transcripts]
