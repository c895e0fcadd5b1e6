"""`CodeMath-v0` for other libraries.

- `trl`, `verifiers`, `inspect_ai` and `nemo_gym` are for libraries that run their own rollout loop with tool calls: the
  policy runs code by calling the tool `python(code)`, and its last message is the answer. `tools` implements that.
- `openenv`, `skyrl` and `gem` are for libraries that step an environment with text, as its own vector environment does.
- `lm_eval` is for lm-evaluation-harness, which asks a model once per problem: a task, and a model that plays episodes.
- `tokens` and `codemath_tokens` are for libraries whose actions are numbers, such as Stable-Baselines3.
"""
