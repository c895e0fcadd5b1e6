"""The training loop: collect, collate, evaluate, advantages, update; validation and checkpoints between steps."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from agents.config.training import TrainConfig
from agents.core import distributed
from agents.core.chat import Chat
from agents.core.errors import CheckpointError, EngineFault, Stopped, TrainingError, expect
from agents.core.reproduce import seed_of
from agents.core.types import Trajectory
from agents.engines import open_engine
from agents.learning.advantages import correction, estimate_advantages
from agents.learning.batching import collate, describe_mismatch, with_feedback
from agents.learning.ppo import PPO, Part
from agents.models.devices import pick_device, pick_dtype
from agents.models.find import resolve_model
from agents.models.load import load_tokenizer
from agents.rollout.envs import open_split
from agents.rollout.metrics import describe_staleness
from agents.rollout.sampler import Sampler
from agents.rollout.selection import is_in_loss
from agents.tracking.callbacks import Callback
from agents.tracking.model_card import ModelCardWriter
from agents.tracking.sample_log import SampleLog
from agents.tracking.trackers import MetricsLog, check_installed
from agents.training import checkpoint, run_folder
from agents.training.build import build_policy, load_reference
from agents.training.health import Health
from agents.training.hub import HubUpload
from agents.training.stop_request import StopRequest
from agents.training.validation import Validator, figures_of
from agents.training.weight_sync import TOLERANCE, sync_weights

_PROBE = "What is 12 * 34?"
_REFRESH_S = 0.3


class Trainer:
    """Trains a policy with PPO against copies of a text environment.

    Asked to stop, it breaks off what is in hand between two of the engine's steps or two micro-batches, as long as the
    step has changed no weight: the step does not count, and a resumed run begins it again, with the same outcome. From
    the first optimiser step of an update on the step is finished instead: going back would take a copy of weights and
    moments in every step, three times the model's size. That is at most the time of all minibatches but one, and where
    ``rollout.overlap`` samples beside the update, of the rest of that collection.

    Args:
        config: The run.
        log: Takes lines for the user, in the first process; by default it writes them above the progress bar.
        callbacks: Called in this order at the hooks of :class:`agents.tracking.callbacks.Callback`, after those that
            write samples and model card, and before the upload to the hub.
    """

    def __init__(
        self, config: TrainConfig, *, log: Callable[[str], Any] = tqdm.write, callbacks: Sequence[Callback] = ()
    ) -> None:
        self.config = config
        check_installed(config.report_to)
        self.device = distributed.start(pick_device(config.device))
        _check_shares(config)
        self.log = log = log if distributed.rank() == 0 else lambda _: None
        if idle := distributed.idle_gpus(self.device):
            log(f"One GPU works and {idle} do not: torchrun --nproc-per-node {idle + 1} train.py ... uses all.")
        self.step = 0
        self._stop = StopRequest(log)
        self._is_whole = True  # whether the weights are those of the last whole step
        self._validated: int | None = None  # the step of the last validation
        self._best: dict[str, Any] | None = None  # the checkpoint that is the best so far
        self._saved: dict[str, Any] | None = None  # what the last checkpoint says
        self._last_budget: float | None = None
        self.health = Health(config.health, config.output_dir / "inspect", log)
        with distributed.first_of_node_first():
            started = run_folder.claim(config)
            self.callbacks = self._with_ours(callbacks) if distributed.rank() == 0 else ()
            adapts = config.lora.rank > 0  # then checkpoints hold the adapters, and the model is the first one
            model_path = started if started and not adapts else resolve_model(config.model, log=log)
        self.train_envs = open_split(config.env, config.rollout.pool_size, split="train")
        if self.train_envs.data_summary:
            log(f"Training on {self.train_envs.data_summary}.")
        self._dtype = pick_dtype(config.rollout.dtype, self.device, log=log)
        log(f"Loading {model_path} on {self.device}, to sample in {self._dtype}.")
        self.chat = Chat(load_tokenizer(model_path), config.template)
        self._probe = self.chat.encode_prompt(_PROBE)
        self.policy = build_policy(config, model_path, self.chat, self.device, is_new=started is None, log=log)
        self.ppo = PPO(self.policy, config.ppo, max_completion_length=config.rollout.max_completion_length)
        self.engine = open_engine(
            _own_engine(config.rollout.engine),
            model_path,
            self.chat,
            dtype=self._dtype,
            device=self.device,
            max_num_seqs=config.rollout.max_num_seqs,
            max_model_len=config.rollout.max_model_len,
            gpu_memory_utilization=config.rollout.vllm_gpu_memory_utilization,
            log=log,
        )
        self.sampler = Sampler(self.train_envs, self.engine, self.chat, config)
        if started is not None:
            self._restore(started)
        self.validator = Validator(config, self.engine, self.chat)
        self._reference = load_reference(config, self.device) if config.ppo.kl_coefficient else None

    def train(self) -> bool:
        """Run to ``max_steps``; return False if the run was asked to stop before.

        The last checkpoint is of the last whole step either way.

        Raises:
            UnhealthyError: Too many optimiser steps in a row were skipped, or steps collapsed.
            ServiceError: A tracker does not start; nothing was trained.
            ServiceError: The last checkpoint is saved, and could not be pushed.
        """
        config, first = self.config, self.step
        with self._stop.on_signals(), self._open_log() as metrics:
            # the time left is by the mean of all steps of this process, validations between them included
            bar = tqdm(
                total=config.max_steps,
                initial=first,
                unit="step",
                dynamic_ncols=True,
                smoothing=0,
                disable=distributed.rank() > 0,
            )
            try:
                self._call("on_train_begin")
                self._validate_if_due(metrics, bar)
                bar.unpause()
                while self.step < config.max_steps and not self._is_asked_to_stop():
                    self._whole_step(metrics, bar)
                    self._validate_if_due(metrics, bar)
                    if self.step < config.max_steps and self.step % config.save_every == 0:
                        self._save_or_warn()
            except Stopped:
                self._stop.ask()  # it may be another process that was
            except Exception as error:
                if self._is_whole and distributed.size() == 1:  # the others would not come to save
                    self._save_or_warn()
                if isinstance(error, EngineFault):
                    self.log("The engine is lost: once there is one again, go on with --resume.")
                raise
            finally:
                bar.close()
            self.log(f"Checkpoint after step {self.step}: {self.save()}")
        self._call("on_train_end")
        distributed.wait()  # the first process may have uploaded something
        return not self._stop.asked

    def stop(self) -> None:
        """End the run as Ctrl-C does: before the step in progress, or after it where it has changed a weight."""
        self._stop.ask()

    @property
    def data_summary(self) -> str | None:
        """What the run trains on, in a line, where the environment says so."""
        return self.train_envs.data_summary

    @property
    def stopped_by(self) -> signal.Signals | None:
        """The signal that asked the run to stop, if one did."""
        return self._stop.signal

    def close(self) -> None:
        """Close environments and engine, and leave the other processes."""
        self.sampler.close()
        self.train_envs.close()
        self.validator.close()
        self.engine.close()
        distributed.stop()

    def save(self) -> Path:
        """Write a checkpoint of the last whole step, unless it is there already; return where it is."""
        state = {
            "step": self.step,
            "config": run_folder.settings(self.config),
            "validated": self._validated,
            "best": self._best,
            "health": self.health.as_json(),
            "interaction_budget": self._last_budget,
            "data": self.train_envs.data_summary,
        }
        if state == self._saved:
            return checkpoint.path_of(self.config.output_dir, self.step)
        path = checkpoint.save(
            self.config.output_dir,
            policy=self.policy,
            tokenizer=self.chat.tokenizer,
            optimizer=self.ppo.optimizer,
            state=state,
            rollouts=self.sampler.as_json(),
            keep=self.config.save_total_limit,
            lora=self.config.lora if self.config.lora.rank else None,
        )
        self._saved = state
        self._call("on_save", path)
        return path

    def _restore(self, path: Path) -> None:
        state = checkpoint.read_json(path / checkpoint.STATE)
        self.step, self._validated, self._best = int(state["step"]), state["validated"], state["best"]
        self.health.restore(state["health"])
        self._last_budget = state["interaction_budget"]
        checkpoint.load_training_state(path, policy=self.policy, optimizer=self.ppo.optimizer)
        self.sampler.restore(checkpoint.read_json(path / checkpoint.ROLLOUTS))
        self._saved = state
        self.log(f"Going on after step {self.step}.")

    def _with_ours(self, callbacks: Sequence[Callback]) -> tuple[Callback, ...]:
        hub = [HubUpload(self.config)] if self.config.push_to_hub else []
        return (SampleLog(self.config), ModelCardWriter(), *callbacks, *hub)

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)

    def _mark_budget(self, budget: float) -> None:
        """Say when the interaction budget has changed."""
        if self._last_budget not in (None, budget):
            self.log(f"Interaction budget in step {self.step}: {budget:g}, after {self._last_budget:g}.")
        self._last_budget = budget

    def _save_or_warn(self) -> bool:
        try:
            self.save()
        except CheckpointError as error:
            self.log(f"Warning: {error}")
            return False
        return True

    def _whole_step(self, metrics: MetricsLog | None, bar: tqdm[Any]) -> None:
        begin = time.perf_counter()
        figures, trajectories = self._train_step(bar)
        self.step += 1
        self._is_whole = True
        figures |= self.health.end_step(self.step, figures, trajectories)
        try:
            self.sampler.finish()
        finally:
            figures["step_time"] = time.perf_counter() - begin
            if metrics is not None:
                metrics.write(self.step, figures)
        self._call("on_step_end", figures, trajectories)
        self._mark_budget(figures["interaction_budget"])
        bar.update()
        bar.set_postfix_str(_postfix(figures))
        self.health.check()

    def _train_step(self, bar: tqdm[Any]) -> tuple[dict[str, float], list[Trajectory]]:
        """Do one step, from problems to new weights; return its figures and trajectories."""
        figures: dict[str, float] = {}
        was_ahead = self.sampler.is_ahead
        if not was_ahead:
            figures = self._sync()
        trajectories = self.sampler.take(self.step, on_end=_counter(bar, "sampling"), on_poll=self._break_off_alone)
        if self.config.rollout.overlap and self.step + 1 < self.config.max_steps:
            if was_ahead:
                figures = self._sync()
            self.sampler.begin(self.step + 1)
        else:
            self.engine.sleep()
        figures |= self.sampler.figures
        if figures["episodes/invalid_ratio"] == 1:
            raise TrainingError("Expect a valid reward from some of the episodes, got none: see above.")
        begin = time.perf_counter()
        figures |= self._update(trajectories)
        return figures | {"time/update_s": time.perf_counter() - begin}, trajectories

    def _update(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """Train on the trajectories with valid rewards; where none of them is in the loss, do nothing."""
        config = self.config
        trajectories = [t for t in trajectories if t.reward_valid and any(t.action_mask)]
        in_loss = [is_in_loss(t, config.selection) for t in trajectories]
        if not any(in_loss):
            return {"num_updates": 0.0}
        batch = sampled = collate(trajectories, in_loss=in_loss)
        if config.ppo.train_on_feedback:
            batch = with_feedback(sampled, [t.prompt_length for t in trajectories])
        torch.manual_seed(seed_of(config.seed, 3, self.step))  # for dropout, where a model has any
        old = self.policy.evaluate(batch, config.ppo.micro_batch_tokens, on_micro_batch=self._break_off)
        weights = correction(sampled, old, config.ppo)
        figures = describe_mismatch(sampled, old, weights) | describe_staleness(trajectories, self.step)
        targets = estimate_advantages(batch, old, config.ppo)
        if self._reference is not None:
            reference = self._reference.evaluate(batch, config.ppo.micro_batch_tokens, on_micro_batch=self._break_off)
            targets = dataclasses.replace(targets, reference_logprobs=reference.logprobs)
        generator = torch.Generator().manual_seed(seed_of(config.seed, 2, self.step))
        acting = batch.action_mask.any(1).nonzero()[:, 0]  # without them a minibatch would step on nothing
        parts = batch.rows(acting), old.rows(acting), targets.rows(acting)
        return figures | self.ppo.update(
            *parts, generator=generator, guard=self._admits, on_micro_batch=self._break_off
        )

    def _validate_if_due(self, metrics: MetricsLog | None, bar: tqdm[Any]) -> None:
        """Validate before the first step, after the last, and at intervals; never twice after the same step."""
        every, is_end = self.config.validation.every, self.step in (0, self.config.max_steps)
        if self._validated != self.step and (is_end or (every and self.step % every == 0)):
            figures = self._validate(metrics, bar, arms=is_end)
            self._validated = self.step
            self._keep_if_best(figures)

    def _validate(self, metrics: MetricsLog | None, bar: tqdm[Any], *, arms: bool) -> dict[str, float]:
        """Write accuracy on held-out problems; with ``arms``, also greedy and text only."""
        begin = time.perf_counter()
        self._sync()
        outcomes = self.validator.play(arms=arms, on_end=lambda arm: _counter(bar, arm), on_poll=self._break_off_alone)
        figures = figures_of(outcomes) | {"time/validation_s": time.perf_counter() - begin}
        if metrics is not None:
            metrics.write(self.step, figures)
        trajectories = {arm: outcome.trajectories for arm, outcome in outcomes.items()}
        self._call("on_validation", figures, trajectories)
        accuracies = [f"{k.removesuffix('/accuracy')} {v:.3f}" for k, v in figures.items() if k.endswith("/accuracy")]
        self.log(f"Held-out accuracy after step {self.step}: {', '.join(accuracies)}")
        return figures

    def _keep_if_best(self, figures: Mapping[str, float]) -> None:
        """Save a trained policy that is better than all before it; its own checkpoint says that it is the best."""
        name = self.config.best_metric
        if name is None or self.step == 0:
            return
        if name not in figures:
            self.log(f"Warning: expect a figure {name} by which the best checkpoint is kept, got none this time.")
        elif self._best is None or figures[name] > self._best["value"]:
            before = self._best
            path = checkpoint.path_of(self.config.output_dir, self.step)
            self._best = {"checkpoint": path.name, "metric": name, "value": figures[name]}
            if not self._save_or_warn():
                self._best = before

    def _sync(self) -> dict[str, float]:
        """Give the engine the policy's weights, and check that it has them."""
        exact = self._dtype == "float32" and self.policy.autocast is None
        return sync_weights(
            self.policy,
            self.engine,
            version=self.step,
            prompt=self._probe,
            tolerance=TOLERANCE["float32" if exact else "bfloat16"],
        )

    def _break_off(self) -> None:
        """End what is in hand if the run was asked to stop, and is where a checkpoint is exact; in all processes."""
        if self._is_asked_to_stop() and self._is_whole:
            raise Stopped

    def _break_off_alone(self) -> None:
        """Do so in this process, where each works by itself; what gathers the outcomes tells the others."""
        if self._stop.asked and self._is_whole:
            raise Stopped

    def _is_asked_to_stop(self) -> bool:
        if distributed.any_of(self._stop.asked):
            self._stop.ask()
        return self._stop.asked

    def _open_log(self) -> AbstractContextManager[MetricsLog | None]:
        """Open the log, which the first process keeps; a resumed run writes its steps again."""
        if distributed.rank() > 0:
            return nullcontext()
        return MetricsLog.of_run(self.config, self.step, warn=self.log)

    def _admits(self, figures: Mapping[str, float], part: Part) -> bool:
        admitted = self.health.admits(self.step + 1, figures, part)
        self._is_whole = self._is_whole and not admitted
        return admitted


def _check_shares(config: TrainConfig) -> None:
    """Refuse a run whose problems cannot be shared evenly among the processes."""
    for name in ("num_problems", "num_extra_problems"):
        value, count = getattr(config.rollout, name), distributed.size()
        expect(value % count == 0, f"rollout.{name}", f"a multiple of the {count} processes", value)


def _own_engine(names: str) -> str:
    """Return this process's engine: the one that is named, or of as many as there are processes its own."""
    each, count = names.split(","), distributed.size()
    is_served = ":" in names
    expect(
        len(each) == (count if is_served else 1),
        "rollout.engine",
        f"to be one name, or an address for each of the {count} processes",
        names,
    )
    return each[distributed.rank()] if is_served else names


def _counter(bar: tqdm[Any], what: str) -> Callable[[Trajectory], None]:
    """Return a callback that shows how many episodes have ended, a few times a second at most."""
    numbers, shown = count(1), 0.0

    def show(_: Trajectory) -> None:
        nonlocal shown
        now = time.monotonic()
        is_due = now - shown > _REFRESH_S
        bar.set_description(f"{what} {next(numbers)}", refresh=is_due)
        if is_due:
            shown = now

    return show


def _postfix(figures: dict[str, float]) -> str:
    shown = {
        "reward": "reward",
        "accuracy": "accuracy",
        "tools/use_ratio": "code",
        "tokens_per_second": "tok/s",
    }
    return ", ".join(f"{label} {figures[key]:.3g}" for key, label in shown.items() if key in figures)
