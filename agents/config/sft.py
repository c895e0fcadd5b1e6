"""The configuration of supervised fine-tuning: every field is a flag of ``train.py sft``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from agents.config.files import first_paragraph, parse_one
from agents.config.shared import EnvArguments
from agents.config.training import OptimizerConfig, RunArguments
from agents.core.errors import expect

COMMAND = "sft"
"""What the arguments of ``train.py`` begin with."""


@dataclass(frozen=True, kw_only=True)
class SFTConfig(RunArguments):
    """Fine-tune a model on transcripts: the policy's tokens are learned, the environment's feedback is not."""

    transcripts: tuple[str, ...] = ()
    """Files of samples, as ``evaluate.py select`` writes them, or of chats with ``messages`` (.jsonl, .json), or
    hub:NAME, a set of chats."""
    chat_prompts: Literal["own", "env"] = "own"
    """The prompt of a chat: its own messages, or what --env.prompt makes of its user's message. Samples always get
    that of --env.prompt, whatever they were sampled with."""
    output_dir: Path = Path("runs/sft")
    """Where metrics and checkpoints go."""
    save_every: int = 100
    """Optimizer steps between checkpoints; there is always one after the last step."""
    num_epochs: int = 2
    """Passes over the transcripts."""
    batch_size: int = 32
    """Transcripts of one optimizer step."""
    max_length: int = 2048
    """Tokens of a whole transcript, prompt included; longer ones are not used."""
    held_out_share: float = 0.05
    """Share of the problems whose transcripts are held out, to measure the loss on them; 0: none."""
    eval_every: int = 0
    """Steps between measurements on them; there is one before the first and one after the last step. 0: only these."""
    env: EnvArguments = field(default_factory=EnvArguments)
    optimizer: OptimizerConfig = field(
        default_factory=partial(OptimizerConfig, learning_rate=1e-5, lr_scheduler_type="cosine")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_epochs", "batch_size", "max_length"):
            expect(getattr(self, name) >= 1, name, "of at least 1", getattr(self, name))
        expect(0 <= self.held_out_share < 1, "held_out_share", "in [0, 1)", self.held_out_share)
        expect(self.eval_every >= 0, "eval_every", "of at least 0", self.eval_every)
        told = self.env.show_budget
        expect(not told, "env.show_budget", "False, since transcripts do not say what their budget was", told)


def parse(args: Sequence[str]) -> SFTConfig:
    """Return the configuration that flags ask for, and exit with code 2 where they cannot be read."""
    text = first_paragraph(SFTConfig)
    return parse_one(SFTConfig, SFTConfig(), args, prog=f"train.py {COMMAND}", description=text)
