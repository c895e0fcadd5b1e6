"""Decides whether an answer is right.

`grader` contains `Grader`, the entry point; `answer_types` defines the ways to compare answers. `judge`, `latex`,
`numeric` and `parts` compare by text, `worker` is the process that compares by algebra. It imports from this package,
so this file imports nothing.
"""
