"""Train a language model to solve mathematics by writing Python.

$ python train.py                     the quickstart: a small model, 2 CPU cores
$ python train.py tiny                no download: two minutes
$ python train.py tiny --max-steps 5  any field of the configuration is a flag
$ python train.py quickstart --help   all flags, with the preset's values
$ python train.py sft --help          supervised fine-tuning on transcripts
$ python train.py --config run.yaml   flags from a file
$ python train.py --dry-run           print the configuration, check it and stop
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial

try:
    from agents.config.presets import AnyConfig, from_flags
    from agents.core.errors import AgentsError, ConfigError, UnhealthyError
except ModuleNotFoundError as error:
    sys.exit(f"train.py: {error}")


def parse(args: Sequence[str]) -> tuple[AnyConfig, bool]:
    """Return the configuration that the arguments ask for, and whether it is only to be printed and checked."""
    dry_run = "--dry-run" in args
    preset, config = from_flags([arg for arg in args if arg != "--dry-run"], __doc__ or "")
    if config.env.id != preset.env.id:
        from agents.rollout.envs import without_presets_arguments

        config = without_presets_arguments(config, preset)
    return config, dry_run


def complain(error: Exception) -> int:
    """Print an error in one line; return the exit code."""
    print(f"train.py: {error}", file=sys.stderr)
    return 2 if isinstance(error, ValueError) else 3 if isinstance(error, UnhealthyError) else 1


def main(args: Sequence[str]) -> int:
    """Train; return the exit code.

    0: done. 1: failed. 2: bad input. 3: the run is not healthy (`training.health`). 130: stopped by Ctrl-C. 143:
    stopped by SIGTERM. The last two are 128 plus the signal's number, as in a shell; ``--resume`` continues.
    """
    try:
        config, dry_run = parse(args)
    except ConfigError as error:
        return complain(error)
    as_json = json.dumps(dataclasses.asdict(config), default=str, indent=2)
    print(as_json if dry_run else "Starting: loading the libraries.", flush=True)
    from cir_env.errors import CirEnvError

    trainer = None
    try:
        from agents.core.distributed import lost_processes_in_one_line
        from agents.core.programs import launcher, shell_command
        from agents.sft.programs import check, open_trainer

        if dry_run:
            check(config, log=partial(print, file=sys.stderr))
            return 0
        with lost_processes_in_one_line(), closing(trainer := open_trainer(config)):
            if trainer.train():
                return 0
        flags = args if config.resume == "auto" else [*(arg for arg in args if arg != "--resume"), "--resume"]
        trainer.log(f"Resume with: {shell_command('train', flags, launcher=launcher())}")
    except (AgentsError, CirEnvError, OSError) as error:
        return complain(error)
    except KeyboardInterrupt:
        print("train.py: stopped at once; the last checkpoint is unchanged.", file=sys.stderr)
    return 128 + ((trainer and trainer.stop_request.signal) or signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
