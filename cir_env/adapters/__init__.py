"""`CodeMath-v0` for trainers of language models that have a rollout loop of their own.

`cir_env.adapters.trl` serves TRL's `GRPOTrainer`, `cir_env.adapters.verifiers` verifiers. In both a code block is the
call of a tool, `python(code)`, and the last message is the answer; `cir_env.adapters.tools` says how.
"""
