"""The training loop: collect, update, sync weights; validation and checkpoints between steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from agents.config.training import TrainConfig
from agents.core import distributed
from agents.core.errors import EngineFault
from agents.core.types import Collected
from agents.learning.ppo import PPO, Part
from agents.learning.step import update
from agents.models.devices import pick_device, pick_dtype
from agents.models.find import resolve_model
from agents.rollout.envs import open_split
from agents.rollout.episode import TurnRules
from agents.rollout.sampler import Sampler
from agents.rollout.selection import describe_staleness, is_in_loss
from agents.rollout.source import open_chat
from agents.tracking.callbacks import Callback
from agents.tracking.progress import Progress
from agents.tracking.run_log import RunLog
from agents.tracking.trackers import MetricsLog, open_log
from agents.training import run_folder
from agents.training.build import build_policy, build_source, check_processes, load_reference, with_own_callbacks
from agents.training.health import Health
from agents.training.preflight import check_libraries
from agents.training.saving import Saver
from agents.training.stop_request import StopRequest
from agents.training.validation import Validator, open_held_out
from agents.training.weight_sync import WeightSync


class Trainer:
    """Trains a policy with PPO against copies of a text environment.

    A run that is asked to stop abandons the step in progress at once, as long as the step has changed no weight: a
    resumed run repeats it, with the same outcome. After the first optimizer step of an update it finishes the step
    instead, since undoing it would need a copy of weights and optimizer state, three times the model's size.

    Args:
        config: The run.
        log: Takes lines for the user, in the first process; by default it writes them above the progress bar.
        callbacks: Called in this order at the hooks of :class:`agents.tracking.callbacks.Callback`, after those that
            write samples and model card, and before the upload to the hub.
        rules: Where turns end and which tokens are trained on; only experiments change them.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        log: Callable[[str], Any] = tqdm.write,
        callbacks: Sequence[Callback] = (),
        rules: TurnRules | None = None,
    ) -> None:
        # processes and folder
        self.config = config
        check_libraries(config)
        self.device = distributed.start(pick_device(config.device))
        self._run_log = RunLog(log if distributed.rank() == 0 else None)
        self.log: Callable[[str], Any] = self._run_log
        check_processes(config, self.device, log=self.log)
        self.step = 0
        self.interaction_budget: float | None = None  # of the last whole step
        self.stop_request = StopRequest(self.log)
        self._rules = rules or TurnRules()
        self.health = Health(config.health, config.output_dir / "inspect", self.log)
        with distributed.first_of_node_first():
            started = run_folder.open_folder(config, self._run_log)
            self.callbacks = with_own_callbacks(callbacks, config)
            with self._run_log.noting_errors():
                model = None if config.lora.rank else started  # with LoRA a checkpoint holds the adapters alone
                path = model or resolve_model(config.model, log=self.log)
        run_folder.check_same(started, config.output_dir)
        with self._run_log.noting_errors():
            self._open(path, started)

    def _open(self, path: Path, started: Path | None) -> None:
        """Open environments, policy and engine, from a model's folder, and resume from a checkpoint if there is one."""
        log = self.log
        config, here = self._sized()

        # environment, policy, engine
        self.train_envs = open_split(config.env, here.rollout.pool_size, split="train")
        self.data_summary = self.train_envs.data_summary
        held_out = open_held_out(here, self.train_envs, log=log)
        dtype = pick_dtype(config.rollout.dtype, self.device, log=log)
        log(f"Loading {path} on {self.device}, to sample in {dtype}.")
        self.chat = open_chat(config, path)
        self.policy = build_policy(config, path, self.chat, self.device, is_new=started is None, log=log)
        self._reference = load_reference(config, self.device, log=log) if config.ppo.kl_coefficient else None
        limits = {"max_completion_length": config.rollout.max_completion_length, "max_steps": config.max_steps}
        self.ppo = PPO(self.policy, config.ppo, **limits)
        self.source = build_source(
            config, path, self.chat, self.policy, self._rules, dtype=dtype, device=self.device, log=log
        )

        # what the loop works with
        prompt_length = config.rollout.max_model_len - config.rollout.max_completion_length
        self._sync = WeightSync(self.policy, self.source, self.chat, dtype, prompt_length=prompt_length)
        self.sampler = Sampler(self.train_envs, self.source, config)
        self.validator = Validator(here, held_out, self.source)
        self._saver = Saver(self, on_save=partial(self._call, "on_save"))
        if started is not None:
            self.step = self._saver.restore(started)
        distributed.wait()  # some processes load an engine more slowly

    def _sized(self) -> tuple[TrainConfig, TrainConfig]:
        """Return the configuration with the rows of an engine, and the one by which this process opens environments."""
        cluster, rollout, on_gpu = self.config.cluster, self.config.rollout, self.device.type == "cuda"
        if cluster.engines:
            rollout = rollout.sized(on_gpu=cluster.engine_gpus > 0, processes=cluster.engines)
        else:
            rollout = rollout.sized(on_gpu=on_gpu, processes=distributed.size())
        config = replace(self.config, rollout=rollout)
        if not (cluster.engines or cluster.env_actors):
            return config, config
        # one copy, which says which problems there are
        return config, replace(config, rollout=replace(rollout, max_num_seqs=1, num_envs=1, max_new_tokens=None))

    def train(self) -> bool:
        """Run to ``max_steps``; return False if the run was asked to stop before.

        The last checkpoint is of the last whole step either way.

        Raises:
            UnhealthyError: Too many optimizer steps in a row were skipped, or steps collapsed.
            ServiceError: A tracker does not start, and nothing was trained; or the last checkpoint, which is saved,
                could not be pushed to the hub.
        """
        progress = Progress(self.config.max_steps, self.step, log=self.log)
        with (
            self._run_log.noting_errors(),
            self.stop_request.on_signals(),
            open_log(self.config, self.step, warn=self.log) as log,
        ):
            with progress:
                try:
                    self._call("on_train_begin")
                    ended = self._loop(log, progress)
                except Exception as error:
                    if self.stop_request.may_abandon and distributed.size() == 1:  # the others would not come to save
                        self._saver.save_or_warn()
                    if isinstance(error, EngineFault):
                        self.log("The engine is lost. Continue with --resume once it is back.")
                    raise
            self.log(f"Checkpoint after step {self.step}: {self.save()}")
        self._call("on_train_end")
        return ended and not self.stop_request.asked

    def save(self) -> Path:
        """Write a checkpoint of the last whole step, unless it is there already; return where it is."""
        return self._saver.save()

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        return self.chat.decode(token_ids)

    def stop(self) -> None:
        """End the run as Ctrl-C does: before the step in progress, or after it where it has changed a weight."""
        self.stop_request.ask()

    def close(self) -> None:
        """Close environments and engine, and leave the other processes."""
        self.sampler.close()
        self.train_envs.close()
        self.validator.close()
        self.source.close()
        distributed.stop()

    def _loop(self, log: MetricsLog | None, progress: Progress) -> bool:
        """Train and validate up to the last step; return False if a step or a validation was abandoned."""
        if not self._validate_if_due(log, progress):
            return False
        progress.begin()
        while self.step < self.config.max_steps and not self.stop_request.anywhere():
            if not (self._train_step(log, progress) and self._validate_if_due(log, progress)):
                return False
            if self.step < self.config.max_steps and self.step % self.config.save_every == 0:
                self._saver.save_or_warn()
        return True

    def _train_step(self, log: MetricsLog | None, progress: Progress) -> bool:
        """Do one step, from problems to new weights; return False if it was stopped before it changed one."""
        # collect
        begin, num_episodes = time.perf_counter(), len(self.source.share(range(self.config.rollout.num_episodes)))
        collected = self.sampler.take(
            self.step,
            sync=partial(self._sync, self.step),
            send=partial(self._sync.send, self.step),
            on_end=progress.phase("phase 1 of 2, sampling: episode", num_episodes),
            should_stop=self.stop_request.alone,
        )
        if collected is None:
            return False

        # update
        updated = self._update(collected, progress)
        if updated is None:
            return False

        # the step is whole
        metrics = {**collected.metrics, **updated}
        self.step += 1
        self.stop_request.may_abandon = True
        metrics |= self.health.end_step(self.step, metrics, collected.trajectories)
        try:
            self.sampler.finish()
        finally:
            metrics["step_time"] = time.perf_counter() - begin
            if log is not None:
                log.write(self.step, metrics)
        self._call("on_step_end", metrics, collected.trajectories)
        before, self.interaction_budget = self.interaction_budget, metrics["interaction_budget"]
        if before not in (None, self.interaction_budget):
            self.log(f"Interaction budget in step {self.step}: {self.interaction_budget:g}, after {before:g}.")
        progress.end_step(metrics)
        self.health.check()
        return True

    def _update(self, collected: Collected, progress: Progress) -> dict[str, float] | None:
        """Train on the trajectories with valid rewards; do nothing if none of them is in the loss."""
        begin = time.perf_counter()
        valid = [self._rules.trained(t) for t in collected.trajectories if t.reward_valid and any(t.action_mask)]
        in_loss = [is_in_loss(t, self.config.selection) for t in valid]
        on_minibatch = progress.phase("phase 2 of 2, update: minibatch", self.config.ppo.num_updates)
        metrics = {"num_updates": 0.0}
        if any(in_loss):
            updated = update(
                self.ppo,
                valid,
                in_loss,
                seed=self.config.seed,
                step=self.step,
                reference=self._reference,
                guard=partial(self._admits, on_minibatch),
                should_stop=self.stop_request.together,
            )
            if updated is None:
                return None
            metrics = describe_staleness(valid, self.step) | updated
        return metrics | {"time/update_s": time.perf_counter() - begin}

    def _validate_if_due(self, log: MetricsLog | None, progress: Progress) -> bool:
        """Measure accuracy on held-out problems, if it is time; return False if the validation was stopped."""
        if not self.validator.is_due(self.step):
            return True
        begin = time.perf_counter()
        self.sampler.drain()
        self._sync(self.step)
        validation = self.validator.play(self.step, on_begin=progress.phase, should_stop=self.stop_request.alone)
        if validation is None:
            return False
        metrics = {**validation.metrics, "time/validation_s": time.perf_counter() - begin}
        if log is not None:
            log.write(self.step, metrics)
        self._call("on_validation", metrics, validation.trajectories)
        self.log(f"Held-out accuracy after step {self.step}: {validation.in_words()}")
        self.validator.last_step = self.step
        self._saver.keep_if_best(metrics)
        return True

    def _admits(self, on_minibatch: Callable[[Part], None], metrics: Mapping[str, float], part: Part) -> bool:
        on_minibatch(part)
        admitted = self.health.admits(self.step + 1, metrics, part)
        self.stop_request.may_abandon = self.stop_request.may_abandon and not admitted
        return admitted

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)
        distributed.wait()  # callbacks are the first process's
