"""`CodeMath-v0` for other libraries.

`trl` (TRL's `GRPOTrainer`) and `verifiers` are for libraries that run their own rollout loop. In both, the policy runs
code by calling the tool `python(code)`, and its last message is the answer; `tools` implements that. `tokens` and
`codemath_tokens` are for libraries whose actions are numbers, such as Stable-Baselines3.
"""
