"""Teach a model the form first: sample, choose, fine-tune, and only then learn by reinforcement.

$ python experiments/cold_start.py --model M --env.problems mixed --preset mixed --output runs/cold-start
$ python experiments/cold_start.py --model M --env.problems mixed --sample.env.prompt cir_one_shot
$ python experiments/cold_start.py --model M --sample.num-problems 2000 --select.repaired-only --sft.num-epochs 3

The stages are commands of train.py and evaluate.py:

    sample  evaluate.py         samples of training problems  OUTPUT/samples
    select  evaluate.py select  right and different ones      OUTPUT/chosen.jsonl
    sft     train.py sft        fine-tuning on them           OUTPUT/sft
    train   train.py            reinforcement learning        OUTPUT/rl

--STAGE.FLAG is the flag of one stage, such as --train.ppo.learning-rate; --env.FLAG is one of all stages but select.
The same command skips the stages that are done, and resumes the one that was stopped; one with other flags needs
another --output.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.core import programs
from agents.core.errors import AgentsError, RunError
from agents.core.files import write_json
from agents.training.checkpoint import checkpoints

ROOT = Path(__file__).parents[1]
DONE = "stages.json"
"""The commands of the stages that are done, in the output folder."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options; --STAGE.FLAG and --env.FLAG come beside them."""

    model: str
    """Folder, GGUF file, hub name, or "tiny"."""
    preset: str = "quickstart"
    """Preset of the last stage."""
    output: Path = Path("runs/cold-start")
    """Folder of all stages."""


Flags = Mapping[str, Sequence[str]]
"""Flags by the stage or the group that they are for."""


def sample(arguments: Arguments, flags: Flags) -> list[str]:
    """Return the command that samples training problems: 8 times 500, unless flags say otherwise."""
    own = ["--model", arguments.model, "--output", str(arguments.output / "samples"), "--env.split", "train"]
    own += ["--num-problems", "500", "--num-samples", "8"]
    return ["evaluate.py", "quick", *own, *flags["env"], *flags["sample"]]


def select(arguments: Arguments, flags: Flags) -> list[str]:
    """Return the command that chooses samples."""
    own = [str(arguments.output / "samples"), "--output", str(arguments.output / "chosen.jsonl")]
    return ["evaluate.py", "select", *own, *flags["select"]]


def sft(arguments: Arguments, flags: Flags) -> list[str]:
    """Return the command that fine-tunes on the chosen ones."""
    own = ["--model", arguments.model, "--transcripts", str(arguments.output / "chosen.jsonl")]
    own += ["--output-dir", str(arguments.output / "sft"), "--resume", "auto"]
    return ["train.py", "sft", *own, *flags["env"], *flags["sft"]]


def train(arguments: Arguments, flags: Flags) -> list[str]:
    """Return the command that trains what came of it.

    Raises:
        RunError: The fine-tuning has left no checkpoint.
    """
    found = checkpoints(arguments.output / "sft")
    if not found:
        raise RunError(f"Expect a checkpoint in {arguments.output / 'sft'}, got none: is it the folder of another run?")
    own = ["--model", str(found[-1]), "--output-dir", str(arguments.output / "rl"), "--resume", "auto"]
    return ["train.py", arguments.preset, *own, *flags["env"], *flags["train"]]


STAGES = (sample, select, sft, train)


def run(arguments: Arguments, flags: Flags) -> int:
    """Run the stages that are not done, one after the other; return 0, or the exit code of the one that ends the rest.

    Raises:
        RunError: A stage was done with other flags.
    """
    path = arguments.output / DONE
    done: dict[str, list[str]] = json.loads(path.read_text()) if path.exists() else {}
    for number, stage in enumerate(STAGES, 1):
        name, command = stage.__name__, stage(arguments, flags)
        title = f"Stage {number} of {len(STAGES)}, {name}"
        if name in done:
            if done[name] != command:
                before, now = map(shlex.join, (done[name], command))
                raise RunError(
                    f"Expect the command that {name} was done with, {before}, got {now}. Use another --output."
                )
            print(f"{title}: done.", flush=True)
            continue
        print(f"{title}: python {shlex.join(command)}", flush=True)
        code = programs.run([sys.executable, str(ROOT / command[0]), *command[1:]])
        if code != 0:
            print(f"{title}: ended with code {code}; the same command resumes.", file=sys.stderr)
            return code
        done[name] = command
        write_json(path, done)
    return 0


def by_stage(args: Sequence[str]) -> Flags:
    """Return flags by their stage, with the values that follow them.

    Raises:
        RunError: A flag is of none.

    >>> flags = by_stage(["--sft.num-epochs", "3", "--env.prompt", "cir", "--select.repaired-only"])
    >>> flags["sft"], flags["env"], flags["select"]
    (['--num-epochs', '3'], ['--env.prompt', 'cir'], ['--repaired-only'])
    """
    flags: dict[str, list[str]] = {name: [] for name in ("env", *(stage.__name__ for stage in STAGES))}
    group = ""
    for given in args:
        arg = given
        if given.startswith("--"):
            group, _, flag = given.removeprefix("--").partition(".")
            arg = given if group == "env" else f"--{flag}"
        if group not in flags:
            raise RunError(f"Expect --STAGE.FLAG with a STAGE of {', '.join(flags)}, got {given}.")
        flags[group].append(arg)
    return flags


def main(args: Sequence[str]) -> int:
    """Run what the arguments ask for; return the exit code."""
    arguments, others = tyro.cli(Arguments, description=__doc__, args=args, return_unknown_args=True)
    try:
        return run(arguments, by_stage(others))
    except (AgentsError, OSError) as error:
        print(f"cold_start.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
