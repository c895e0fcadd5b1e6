r"""`CodeMathEnv`, the single environment."""

import logging
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, Final, Literal

import gymnasium

from cir_env.dialects import DIALECTS, FENCE, Call, DialectName, Scanner, find_dialect
from cir_env.episode.prompts import (
    EXHAUSTED,
    NEUTRAL_ERROR,
    Prompt,
    add_budget,
    budget_left,
    find_prompt,
    find_system_prompt,
    join_messages,
    render_feedback,
    render_messages,
    render_result,
    shorten,
)
from cir_env.episode.rendering import draw, print_unprinted
from cir_env.episode.rewards import Reward, correctness
from cir_env.episode.state import Episode
from cir_env.episode.transcripts import read_turns
from cir_env.errors import (
    ActionError,
    EpisodeError,
    GraderUnavailable,
    OptionError,
    ProblemError,
    SandboxUnavailable,
    check_choice,
    check_integer,
    check_number,
    check_reset_options,
    import_function,
)
from cir_env.grading.grader import AnswerGrader, Verdict, shared_grader
from cir_env.parsing import Block
from cir_env.problems.contamination import decontaminate as drop_benchmark_problems
from cir_env.problems.load import Problems, is_procedural, load_problems
from cir_env.problems.problem import Problem, block_limits
from cir_env.problems.splits import TEST_SHARE, statement_keys
from cir_env.sandbox import ExecutionResult, Sandbox, Status, shared_sandbox
from cir_env.spaces import UnicodeText

_LOG: Final = logging.getLogger("cir_env")
_RESET_OPTIONS: Final = ("problem_index", "interaction_budget")

StepResult = tuple[str, float, bool, bool, dict[str, Any]]
"""Observation, reward, terminated, truncated, info."""
Stages = Generator["Future[Any]", None, StepResult]
"""A step as a generator: it yields each future that it waits for, and returns the result of the step."""


class CodeMathEnv(gymnasium.Env[str, str]):
    r"""Solve a mathematics problem by writing text and Python code that is really executed.

    ## Description
    The policy is a language model that continues a transcript. When it completes a Python code block, the environment
    executes the block in a sandbox and appends its output to the transcript, and the policy continues from there. The
    policy gives its final answer in `\boxed{}`. The interaction budget limits how many blocks an episode may execute.
    This setting is called code-integrated reasoning [1].

    ```python
    >>> import gymnasium
    >>> from cir_env import Problem, ProblemSet
    >>> problem = Problem(id="1", statement="What is 6 * 7?", answer="42", source="me", subject="products")
    >>> env = gymnasium.make("CodeMath-v0", problems=ProblemSet([problem]), observation="feedback")
    >>> prompt, info = env.reset(seed=1)
    >>> feedback, reward, terminated, truncated, info = env.step("Let me run ```python\nprint(6 * 7)\n```\n")
    >>> feedback, reward, terminated
    ('```output\n42\n```\n', 0.0, False)
    >>> _, reward, terminated, truncated, info = env.step(r"The answer is \boxed{42}.")
    >>> reward, terminated, info["predicted"], info["answer"]
    (1.0, True, '42', '42')

    ```

    ## Action Space
    An action is a `UnicodeText()`: any string. It is appended to the transcript.

    - If the action contains a complete, non-blank Python block (see `cir_env.parsing`) and interactions are left, the
      environment keeps the action up to the block's closing fence and the whitespace after it, and discards the rest.
      It executes the block and appends the feedback: ```` ```output ````, the result and ```` ``` ````, each on its own
      line. The result is all that the block printed (to stdout and stderr, in the order in which it was written) until
      it ended, crashed or was stopped, whether it was flushed or not. If the block failed, the last line of the
      traceback, or a line about what stopped it, follows. If the result is longer than `max_output_chars`, its middle
      is replaced by `...`.
    - A block is a closed fence of three or more backticks or tildes, whose language is `python`, `python3` or `py` in
      any case; it may be indented, and text may precede it on its line. Fences without a language or with another,
      fences that are not closed, and tags such as `<code>` are text. An action with nothing else is a final answer
      without a box, which ends the episode.
    - Of several blocks in an action, the first is executed, and the rest is discarded: `info["kept_chars"]` tells how
      much was kept. A policy that keeps its own transcript must cut it there.
    - The value of an expression at the end of a block is printed, as in a notebook.
    - `dialect` chooses another way to write code: calls of the tool `python`, as JSON; see below.
    - Otherwise the action is the final answer. Once the budget is used up, code blocks are treated as plain text,
      unless `on_exhausted` says otherwise.

    ### Tool calls
    With `dialect="hermes"` (Qwen 2.5, Qwen 3, Hermes) or "llama3" (Llama 3.1 and later), a block is a tool call:

    ```python
    >>> hermes = gymnasium.make("CodeMath-v0", problems=ProblemSet([problem]), observation="feedback", dialect="hermes")
    >>> _, info = hermes.reset(seed=1)
    >>> info["tools"][0]["function"]["name"]
    'python'
    >>> call = '<tool_call>\n{"name": "python", "arguments": {"code": "print(6 * 7)"}}\n</tool_call>'
    >>> hermes.step(call)[0]
    '42'
    >>> hermes.reset()[1]["tools"] == info["tools"]
    True
    >>> hermes.step("```python\nprint(6 * 7)\n```\n")[-1]["reason"]
    'no \\boxed answer; a code block is not executed with dialect="hermes"'

    ```

    - In "llama3" the object has `parameters` in place of `arguments`. It is at the beginning of the action or behind
      `<|python_tag|>`. `cir_env.dialects` has the exact rules.
    - Of several calls in an action, the first is executed, and the rest is discarded.
    - A call that is never closed is plain text in "hermes". In "llama3", the end of the action closes it.
    - A call that holds no code (malformed JSON, another tool, other or missing arguments, code that is not a string)
      counts as a block that failed: its status is "error", and its result says what was expected.
    - The feedback is the result alone, as the content of a tool message, which a chat template renders after the end of
      the policy's message. In the transcript, the result is on lines of its own.
    - Boxes within calls are no answers, whether the calls were executed or not.
    - The prompts "cir" and "cir_one_shot" mention the tool. `info["tools"]` holds its schema, for the argument `tools`
      of a chat template. With an interaction budget of 0, no tool is offered.

    ### What blocks can use
    ```python
    >>> import json
    >>> table = Problem(id="2", statement="What is the sum of x?", answer="3", files={"data.csv": "x\n1\n2\n"})
    >>> env = gymnasium.make("CodeMath-v0", problems=ProblemSet([table]), observation="feedback", stateful=True)
    >>> env.reset(seed=1)[1]["files"]
    ('data.csv',)
    >>> env.step("```python\nx = [int(line) for line in open('data.csv').readlines()[1:]]\n```\n")[0]
    '```output\n\n```\n'
    >>> env.step("```python\nsum(x)\n```\n")[0]
    '```output\n3\n```\n'

    ```

    - Packages: the standard library, numpy, scipy, sympy and mpmath, if installed; `packages` adds others.
    - Files: those of the problem, and up to 16 MB of its own, in the working directory. A block begins with those of
      the problem alone; with `stateful=True` it also finds the variables and files of earlier blocks.
    - Nothing else: no input (`input()` raises EOFError), no network, no other processes. Only text is fed back: there
      is no display, and an image that a block writes to a file is seen by later blocks alone.

    If an episode ends without an answer, in any dialect, `info["reason"]` reports code in another dialect.

    ## Observation Space
    An observation is a `UnicodeText(max_transcript_chars)`:

    - `observation="transcript"`: the whole transcript, that is the prompt, the kept part of each action, and the
      feedback. An agent only needs `policy(observation)`.
    - `observation="feedback"`: only what the environment added, that is the prompt after `reset`, the feedback after
      `step`, and the empty string once the episode is over. For agents that keep the token stream themselves.

    ## Rewards
    The reward is 0.0 until the last step of the episode, which gives `reward_correct` (1.0) or `reward_incorrect`
    (-1.0). The answer is the content of the last `\boxed{}` that the policy wrote outside code, in any of its turns;
    program output never counts. An episode without an answer is incorrect.

    - `\fbox{42}` and `\boxed 42` count as well; an empty box does not.
    - Code is a closed fence with a language other than text (such as `text`, `markdown`, `latex` or `math`). A fence of
      text, one without a language, and one that is never closed hide no box. `cir_env.parsing` has the details.

    `reward` replaces these two numbers by a function of the `cir_env.EpisodeRecord`, called once, at the end. The
    record has the `problem` (with the other fields of its row in `problem.metadata`), the `segments` (the kept part of
    each action), the `statuses` of the executed blocks, `predicted`, `correct`, `truncated`, `interaction_budget` and
    `n_chars`; it has no program output, so that no program can print itself a reward. For a reward per step, wrap the
    environment:

    ```python
    >>> class BlockCost(gymnasium.Wrapper):
    ...     def step(self, action):
    ...         observation, reward, *ends, info = self.env.step(action)
    ...         return observation, reward - 0.1 * bool(info["execution_status"]), *ends, info
    >>> def shorter(episode):
    ...     return float(episode.correct) - episode.n_chars / 10_000 if not episode.truncated else None
    >>> env = BlockCost(gymnasium.make("CodeMath-v0", problems=ProblemSet([problem]), reward=shorter))
    >>> _ = env.reset(seed=1)
    >>> env.step("```python\nprint(6 * 7)\n```\n")[1], env.step(r"\boxed{42}")[1]
    (-0.1, 0.9963)

    ```

    Infrastructure errors, such as a broken sandbox or grader, are never blamed on the policy: the reward is 0.0 and
    `info["reward_valid"]` is False. Drop such episodes.

    ### Right answers
    The answer in the box must be the right answer, worked out, and nothing else. For the right answer

    - `1234`, a plain number: also `1,234`, `x = 1234`, `1234 apples`, `1234.0`, `2 \cdot 617 = 1234`; not
      `2 \cdot 617`, `\sqrt{1522756}`, `2468/2`, `1234 or 5`, `1.234 thousand`.
    - `\frac{1}{3}`: also `1/3`, `2/6`, `0.333333` (six decimals, and six digits below 0.1); not `0.33`,
      `1-\frac{2}{3}`.
    - `2\sqrt{3}`: also any equal expression, such as `\sqrt{12}`, `x = 2\sqrt{3}`, `2*sqrt(3)`, `3.464102`; not
      `x^2 = 12`, `5 = 2\sqrt{3}`.
    - `1, 2`: also `2, 1`, `\{1, 2\}`, `x = 1 \text{ or } x = 2`; not `1`, `1, 2, 2`, `(2, 1)`, `\frac{3 \pm 1}{2}`.
    - `(1, 2)`: also `1, 2`, `x = 1, y = 2`, `y = 2, x = 1`; not `(2, 1)`, `y = 1, x = 2`, `[1, 2]`, `\{1, 2\}`,
      `(1, 1+1)`.
    - `[1, \infty)`: also `x \ge 1`, `\{x \mid x \ge 1\}`; not `x - 1 \ge 0`, `(1, \infty)`. Unions may be in words
      and in any order, and their intervals may touch but not overlap.
    - `y = 2x + 3`: also `2x + 3`, `f(x) = 2x + 3`, `2y - 4x = 6`; not `y - 5 = 2(x - 1)`, `(y - 2x - 3)^2 = 0`.
    - `35 cm`: also `35`, `0.35 m`; not `35 g`, `35 cm^2`.
    - `2\text{ h } 30\text{ min}`: also `150 minutes`, `2.5 hours`; not `2`, `2 h`.
    - `1011_2`: also `1011`, `1011 (base 2)`; not `11`, `1011_3`.
    - `B`, the letter of a choice: also `(B)`, `(B) 42`; not `B or C`, `(B), not (C)`.
    - `\text{even}`: also `Even`, `The answer is even`; not `not even`, `odd or even`.

    Layout is free: fonts, sizes, spaces, `\left`, `\bigl`, dollar signs, braces around everything, missing braces
    (`\frac1x`), Unicode signs, and what Python and sympy print (`Matrix([[1, 2], [3, 4]])`). Words may introduce a
    value ("the answer is"), name its unit or say what is counted. A denial ("is wrong"), a bound ("or more"), a scale
    ("million"), an alternative or an ellipsis makes an answer wrong. So does a copy: an answer that is, up to layout,
    a formula of the statement is wrong unless it is a number or the right answer itself. `info["reason"]` says what
    was found. `answer_type` chooses other rules, or your own verifier: a function `(gold: str, answer: str) -> bool`
    of the right answer and the content of the box, named as "module:function", with a third parameter `metadata` if it
    needs the other fields of the row. It runs in a process of its own, within 1.5 s. `cir_env.grading.answer_types` has
    the details.

    ```python
    >>> env = gymnasium.make("CodeMath-v0", problems=ProblemSet([problem]), answer_type="operator:eq")
    >>> _ = env.reset(seed=1)
    >>> *_, info = env.step(r"\boxed{42.0}")
    >>> info["correct"], info["reason"]
    (False, 'refused by the verifier')

    ```

    ## Starting State
    The transcript is the prompt of a problem drawn uniformly from the problem set with `np_random`.
    `reset(options={"problem_index": i, "interaction_budget": b})` selects the problem (no random number is drawn) and
    the budget of this episode. Both options are optional.

    ## Episode End
    The episode ends if any one of the following occurs:

    1. Termination: the policy gives its final answer.
    2. Truncation: the transcript reaches `max_transcript_chars`. It is cut there and graded as it stands.
    3. Truncation: the sandbox fails. The reward is not valid.

    An episode has at most `interaction_budget` + 1 steps (one more with `on_exhausted="tell"`), so that it needs no
    `TimeLimit`. An environment cannot know of that wrapper, nor of `max_episode_steps` of `gymnasium.make`, which adds
    it: an episode that it ends is not graded. `info["answer"]` is then None, and the reward 0.0, more than for a wrong
    answer. Drop such episodes, as those whose reward is not valid.

    ## Information
    `reset` and `step` return the same keys:

    - `messages` (`tuple` of `dict`): the prompt as a chat for models with a chat template; each message has a `role`
      and a `content`. The transcript starts with the contents, separated by blank lines.
    - `tools` (`tuple` of `dict`): JSON schemas of the tools that the policy may call; empty with `dialect="fence"`.
      Otherwise feedback is the content of a tool message.
    - `problem_id`, `statement`, `source`, `subject`, `level` (`str`): fields of the problem.
    - `metadata` (`Mapping`): the other fields of the problem's row, as JSON values; empty for generated problems. It is
      immutable, and `dict(info["metadata"])` is a dict. It may contain a solution, so do not show it to the policy.
    - `files` (`tuple` of `str`): names of the files that the problem's blocks find in their working directory.
    - `problem_index` (`int`): index of the problem in the problem set.
    - `interaction_budget`, `interactions_left` (`int`): how many blocks the episode may execute in total, and how many
      it still may.
    - `n_code_blocks` (`int`): number of complete Python blocks in the kept text, executed or not.
    - `execution_status` (`str` or `None`): how the block of this step ended, a value of `cir_env.sandbox.Status`.
    - `feedback` (`str`): text that this step appended after the action.
    - `kept_chars` (`int`): number of characters of the action that the transcript keeps.
    - `calls` (`tuple` of `(int, int, str)`): start, end and code of each tool call in the kept part of the action; the
      code of a call that holds none is "". Empty with `dialect="fence"`.
    - `predicted` (`str` or `None`): the graded answer; `None` before the end, or without one.
    - `correct` (`bool`): whether the answer is right; `False` before the end.
    - `reason` (`str`): short reason for the verdict, or why there is no answer to judge; empty before the end only.
    - `reward_valid` (`bool`): `False` if an infrastructure error decided the reward.
    - `answer` (`str` or `None`): the right answer; `None` before the end.

    ## Arguments
    All arguments are keywords, as in `gymnasium.make("CodeMath-v0", interaction_budget=4)`:

    - `problems` ("arithmetic"): a `ProblemSet`, a list or `datasets.Dataset` of rows such as `{"problem": "1 + 1?",
      "answer": 2}`, or a string that `cir_env.problems.load` resolves: a generator, a data set, `hub:OWNER/NAME`,
      `benchmark:NAME`, a path (.jsonl, .json, .csv or .parquet), or a mixture such as `dapo*3+mixed`. A problem may
      have `files` for its blocks, a `time_limit_s` and a `memory_limit_mb`; see `cir_env.Problem`.
    - `split` (None): "train" or "test". A single file is divided by a hash of the statements, so that equal statements
      are in the same split; `ProblemSet`s, lists and benchmarks have no splits. By default all problems of a file, and
      the train split of anything else.
    - `test_share` (0.05): share of a single file in its test split, from 0 (all for "train") to 1 (all for "test").
    - `decontaminate` (None): folder with benchmark files. Training problems that overlap with a benchmark, by the rules
      of `cir_env.problems.contamination`, are dropped. The attribute `data_summary` reports how many.
    - `answer_type` (None): how to compare answers, for all problems: "number?rel_tol=0.01", "choice", "set",
      "interval", "module:function" (your own verifier) and others; see `cir_env.grading.answer_types`. By default each
      problem has its own type, usually "math", which follows the paper.
    - `unreadable` ("error"): what to do about a problem whose gold answer cannot be read as its answer type. "error":
      an error that names file and line. "exclude": drop the problem; a warning says which ones were dropped and why.
    - `interaction_budget` (2): how many blocks an episode may execute; 0 for text only.
    - `dialect` ("fence"): how the policy writes code: "fence" for fenced blocks, as in the paper; "hermes" or "llama3"
      for tool calls.
    - `observation` ("transcript"): "transcript" or "feedback".
    - `prompt` ("cir"): a key of `cir_env.PROMPTS`; a path that ends in .txt or .md, to a template that contains
      `{problem}` once; or a function from a `Problem` to a string, or to messages with `role` and `content`, which may
      be given as "module:function". If a problem has files, a line with their names follows its statement ("Files in
      the working directory: data.csv"); a function writes its own.
    - `system_prompt` (None): the system message, as text or as a path that ends in .txt or .md. It replaces the
      prompt's own system message, if there is one.
    - `reward_correct` (1.0), `reward_incorrect` (-1.0): the reward of a right and of a wrong answer.
    - `reward` (None): function that replaces those two, or its name as "module:function". It maps a
      `cir_env.EpisodeRecord` to a number, or to None to drop the episode. `cir_env.episode.rewards` provides some, and
      `total` to add them up.
    - `on_exhausted` ("silent"): how to treat a block once the budget is used up. "silent": as plain text, as in the
      paper; the policy learns from the reward alone that nothing is executed. "tell": the first such block of an
      episode is answered with a notice, and the policy may still answer; for policies not trained with a budget.
      "end": the episode ends after the block, so that no tokens are sampled or trained on in vain.
    - `show_budget` (False): whether the prompt states the budget and each feedback states what is left of it. A policy
      can only plan with a varying budget if it sees the budget.
    - `stateful` (False): whether a block sees what earlier blocks of the episode defined.
    - `time_limit_s` (5.0): CPU time per block, in seconds. A problem's own limits replace this and the next.
    - `memory_limit_mb` (512): memory per block, in MB.
    - `max_output_chars` (400): how many characters of a block's result are fed back.
    - `max_transcript_chars` (65536): maximum length of the transcript in characters, including the prompt.
    - `error_format` ("last_line"): how to report a failed block: "last_line" of the traceback; the "full" traceback,
      without frames of the sandbox; or "neutral", always "The code did not run to its end.", to measure how policies
      use error messages. Output printed before the error is kept.
    - `sandbox` ("local"): a name that `cir_env.sandbox.shared_sandbox` accepts ("local", "unsafe", server addresses),
      shared by all environments of the process and started at the first block; or a `cir_env.sandbox.Sandbox`, which
      the caller closes.
    - `packages` (()): installed packages, by import name, that blocks may import in addition to the standard library
      and `cir_env.sandbox.host.launch.PRELOAD`, such as `("pandas", "networkx")` (extra `sandbox-packages`). Their
      dependencies can be imported too. A sandbox server has its own `--packages`.
    - `grader` (None): a `cir_env.Grader`, which the caller closes; by default all environments share one.
    - `render_mode` (None): with "ansi", `render()` returns the transcript; with "rgb_array", an image of its last 30
      lines (extra `render`, and `video` for `RecordVideo`); with "human", it is printed as it grows.

    ### Problems of your own
    A row has a `problem` and an `answer`, and optionally `id`, `subject`, `level`, `answer_type`, `files` (an object of
    names and texts), `time_limit_s` and `memory_limit_mb`. All other fields are its metadata. Other names of these
    fields follow a question mark: `problems="mine.jsonl?statement=question&answer=gold.text"`, where a path leads to a
    nested field.

    ```python
    >>> row = {"question": "What is 6 * 7?", "gold": {"text": 42}, "year": 2025}
    >>> problems = ProblemSet.from_rows([row], fields={"statement": "question", "answer": "gold.text"}, name="mine")
    >>> problems[0].answer, problems[0].metadata["year"], len(problems), problems.name
    ('42', 2025, 1, 'mine')
    >>> import os, tempfile
    >>> file = os.path.join(tempfile.mkdtemp(), "mine.jsonl")
    >>> with open(file, "w") as rows:
    ...     _ = rows.write(json.dumps({"problem": "What is 6 * 7?", "answer": 42, "files": {"a.txt": "six"}}) + "\n")
    >>> gymnasium.make("CodeMath-v0", problems=file).reset(seed=1)[1]["files"]
    ('a.txt',)

    ```

    A `cir_env.ProblemSet` is an immutable sequence of `cir_env.Problem`: from a list of them, `from_rows`, `from_file`,
    `from_hub` or `generate`. The first bad row is an error that names file and line. docs/training.md has more on data.

    ### Problems that take several blocks
    `problems="multi_block"` generates problems whose answer needs a look in between: each has one file, which has to be
    read like a text before it is clear what to compute. Their `level` is "1", "2" or "3". Level L takes L looks and
    then a block that computes the answer, so that it needs an `interaction_budget` of L + 1.

    - "trails": 20 questions, longer than `max_output_chars` together; each answer says which question comes next.
      "Each of the 20 lines of questions_474634.txt asks for a whole number. Begin with line 7, counting from 0. After a
      line with the answer a, go to the line whose number is the remainder when a is divided by 20. What is the answer
      to the second question on this way?"
    - "ledgers": a story as long as L outputs, of which `...` replaces the middle if it is printed as a whole. "Cleo,
      Dan, Ivo begin with 4024 coins each. ledger_599342.txt tells in order what happens. How many coins does Ivo have
      in the end?"; the file: "Ivo gives Cleo 60 coins. Dan sells Cleo a lamp for 51 coins. The same happens once
      more. ..."
    - "irregular data": a list of numbers of which L are not written as such. "readings_812249.txt has a whole number in
      each line, the way Ben and others wrote them down. What is the sum of the 21 numbers?"; the file: "838", "as in
      the line above", "747", ... Each of them is an error that names it. All can be looked for at once, in 2 blocks.
    - "sequences": "rule_083262.txt describes a sequence of whole numbers. Find term 98782331946790812."; the file:
      "Take 2978 times a term, add 7975, and drop as many multiples of 8507 as possible: that is the next term. The
      first of all, term 0, is 7350." At level 1 a loop is enough; at level 2 it exceeds any time limit, and the period
      of the sequence helps; at level 3 the period is 10^12. A policy that foresees this takes 2 blocks.

    A policy that has learned every wording of a family could write a program that needs no look. One family alone is
    `problems="multi_block:trails"`, or `:ledgers`, `:readings` ("irregular data") or `:sequences`.

    ## Vectorized environment
    `gymnasium.make_vec("CodeMath-v0", num_envs=8)` returns a `cir_env.CodeMathVectorEnv`, whose episodes execute and
    grade concurrently in one process. `step` waits for all environments. With `send` and `recv`, which follow EnvPool,
    none waits for another:

    ```python
    >>> envs = gymnasium.make_vec("CodeMath-v0", num_envs=2, problems=ProblemSet([problem]), autoreset_mode="SameStep")
    >>> prompts, infos = envs.reset(seed=1)
    >>> envs.step(["```python\nprint(6 * 7)\n```\n", r"\boxed{42}"])[1].tolist()
    [0.0, 1.0]
    >>> envs.send([r"\boxed{42}", r"\boxed{7}"], [0, 1])
    >>> rewards = {}
    >>> while envs.in_flight:
    ...     observations, reward, terminated, truncated, infos = envs.recv()
    ...     rewards |= dict(zip(infos["env_id"].tolist(), reward.tolist()))
    >>> sorted(rewards.items())
    [(0, 1.0), (1, -1.0)]
    >>> observations[0] == prompts[0], infos["final_info"][0]["answer"]
    (True, '42')

    ```

    - `autoreset_mode`: an environment begins its next episode at the next action, which is ignored ("NextStep", the
      default); within the same step, with the end of the old one in `final_obs` and `final_info` ("SameStep"); or only
      by `reset(options={"reset_mask": ...})` or `send_reset` ("Disabled").
    - `batch_size`: how many environments `recv` waits for; by default for one, and it returns all that are ready. Its
      `infos` are arrays with a row per returned environment, whose indices are `infos["env_id"]`.
    - `async_reset()`, `send_reset(env_ids, seeds, options)` and `step(actions, env_ids)`: see the class.
    - Blocks of all environments share a sandbox, which runs one block per core; where blocks sleep, more at once help:
      `sandbox="local?slots=32"`.
    - `vectorization_mode="sync"` or "async" gives Gymnasium's own vector environments, with the same results.

    Environments are independent of each other and may be used from different threads, but each by only one thread at a
    time. They may be used after a fork; the child starts its own sandbox.

    ### Numbers in place of text
    `CodeMathTokens-v0` is a small relative for libraries that know arrays alone: an action is one of 28 tokens, the
    problems are sums of two digits, and infos hold numbers alone. An observation is a dict of `token_ids` and
    `attention_mask`, or with `flat=True` a float32 vector. `cir_env.adapters.tokens.TokenActions` does this for any
    tokenizer and problems, and `cir_env.NumericInfo` drops what is no number from the infos of any environment.

    ```python
    >>> from cir_env import NumericInfo
    >>> tokens = gymnasium.make("CodeMathTokens-v0")
    >>> observation, info = tokens.reset(seed=1)
    >>> {name: value.shape for name, value in observation.items()}
    {'token_ids': (16,), 'attention_mask': (16,)}
    >>> sorted(NumericInfo(gymnasium.make("CodeMath-v0")).reset(seed=1)[1]) == sorted(info)
    True

    ```

    ## References
    [1] "Towards Effective Code-Integrated Reasoning", 2025. https://arxiv.org/abs/2505.24480

    ## Version History
    - v0: first version
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "human", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        *,
        problems: Problems = "arithmetic",
        split: Literal["train", "test"] | None = None,
        test_share: float = TEST_SHARE,
        decontaminate: str | os.PathLike[str] | None = None,
        answer_type: str | None = None,
        unreadable: Literal["error", "exclude"] = "error",
        interaction_budget: int = 2,
        dialect: DialectName = "fence",
        observation: Literal["transcript", "feedback"] = "transcript",
        prompt: Prompt = "cir",
        system_prompt: str | None = None,
        reward_correct: float = 1.0,
        reward_incorrect: float = -1.0,
        reward: Reward | str | None = None,
        on_exhausted: Literal["silent", "tell", "end"] = "silent",
        show_budget: bool = False,
        stateful: bool = False,
        time_limit_s: float = 5.0,
        memory_limit_mb: int = 512,
        max_output_chars: int = 400,
        max_transcript_chars: int = 65_536,
        error_format: Literal["last_line", "full", "neutral"] = "last_line",
        sandbox: Sandbox | str = "local",
        packages: Sequence[str] = (),
        grader: AnswerGrader | None = None,
        render_mode: Literal["ansi", "human", "rgb_array"] | None = None,
    ) -> None:
        """Configure the environment; the class docstring describes the arguments.

        Raises:
            OptionError: An argument has the wrong type or is out of range.
            ProblemError: The problems cannot be found or read, or an answer does not fit `answer_type`.
        """
        self._template, self._system_prompt = find_prompt(prompt), find_system_prompt(system_prompt)
        self.problems = load_problems(
            problems, split, test_share=test_share, answer_type=answer_type, unreadable=unreadable
        )
        if decontaminate is not None:
            self.problems = drop_benchmark_problems(self.problems, decontaminate)
        unchecked = decontaminate is None and split != "test" and not is_procedural(problems)
        self.data_summary = self.problems.summary() + ("; not checked against benchmarks" if unchecked else "")
        self.interaction_budget = check_integer("interaction_budget", interaction_budget, 0)
        self.max_output_chars = check_integer("max_output_chars", max_output_chars, 1)
        self.max_transcript_chars = check_integer("max_transcript_chars", max_transcript_chars, 1)
        if isinstance(reward, str):
            reward = import_function("reward", reward)
        if reward is not None and not callable(reward):
            raise OptionError(f"Expect `reward` to be a function of an `EpisodeRecord`, got {type(reward).__name__}.")
        self._reward_function = reward or correctness(
            check_number("reward_correct", reward_correct), check_number("reward_incorrect", reward_incorrect)
        )
        self._dialect = find_dialect(check_choice("dialect", dialect, tuple(DIALECTS)))
        self._blocks = "code blocks" if self._dialect is FENCE else "tool calls"
        self.on_exhausted = check_choice("on_exhausted", on_exhausted, ("silent", "tell", "end"))
        self.show_budget = check_choice("show_budget", show_budget, (False, True))
        self.prompt = prompt
        self.observation = check_choice("observation", observation, ("transcript", "feedback"))
        self.stateful = check_choice("stateful", stateful, (False, True))
        self.render_mode = check_choice("render_mode", render_mode, (None, "ansi", "human", "rgb_array"))
        self.limits = block_limits(
            check_number("time_limit_s", time_limit_s), check_integer("memory_limit_mb", memory_limit_mb, 1)
        )
        self.error_format = check_choice("error_format", error_format, ("last_line", "full", "neutral"))
        if not isinstance(sandbox, Sandbox | str):
            raise OptionError(f"Expect `sandbox` to be a `Sandbox` or a name, got {type(sandbox).__name__}.")
        if isinstance(sandbox, str):
            shared_sandbox(sandbox, packages)  # reject bad names now; a copy in another process creates its own
        elif packages:
            raise OptionError("Expect `packages` only with a sandbox given by name, got a `Sandbox` object as well.")
        if grader is not None and not callable(getattr(grader, "submit", None)):
            raise OptionError(f"Expect `grader` to be a `Grader` or None, got {type(grader).__name__}.")
        self._sandbox = sandbox
        self._packages = tuple(packages)
        self._grader = grader
        self._episode: Episode | None = None
        self._closed = False
        self.action_space = UnicodeText()
        self.observation_space = UnicodeText(self.max_transcript_chars)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Seeds `np_random`; None keeps its state.
            options: "problem_index" and "interaction_budget", for this episode only.

        Returns:
            The prompt and the info.

        Raises:
            OptionError: An option is unknown or out of range, or the prompt fills the whole transcript.
            ProblemError: There is no problem with that index.
            EpisodeError: The environment is closed.
        """
        if self._closed:
            raise EpisodeError("Expect an open environment, got one that is closed. Make a new one.")
        options = check_reset_options(options, _RESET_OPTIONS)
        budget = check_integer("interaction_budget", options.get("interaction_budget", self.interaction_budget), 0)
        super().reset(seed=seed)
        index = self._choose_problem(options)
        problem = self.problems[index]
        messages = render_messages(self._template, problem, self._system_prompt, self._dialect)
        if self.show_budget:
            messages = add_budget(messages, budget, self._blocks)
        prompt = join_messages(messages)
        if len(prompt) >= self.max_transcript_chars:
            raise OptionError(
                f"Expect `max_transcript_chars` to be larger than the prompt, got {self.max_transcript_chars} "
                f"for the {len(prompt)} characters of problem {problem.id!r}. Raise it, or drop the problem."
            )
        self._end_session()
        self._episode = Episode(
            problem=problem,
            problem_index=index,
            messages=messages,
            budget=budget,
            interactions_left=budget,
            dialect=self._dialect,
            transcript=prompt,
        )
        self._print_unprinted()
        return prompt, self._episode.info()

    def step(self, action: str) -> StepResult:
        """Append the policy's text to the transcript, and execute or grade it.

        Args:
            action: Any string.

        Returns:
            Observation, reward, terminated, truncated, info; see the class.

        Raises:
            ActionError: The action is not a string.
            EpisodeError: No episode is in progress.
        """
        stages = self.begin_step(action)
        while True:
            try:
                awaited = next(stages)
            except StopIteration as end:
                result: StepResult = end.value
                return result
            wait([awaited])

    def begin_step(self, action: str, *, final: bool = False) -> Stages:
        """Return `step` as a generator, for callers that serve many environments from one thread.

        Args:
            action: Any string.
            final: Whether to treat the action as the final answer even if it contains a block, for policies that
                request executions by other means, such as tool calls.

        Returns:
            A generator that yields each future (an execution, a grading) that must be done before it is resumed, and
            returns what `step` returns. Nothing happens before its first `next`.
        """
        if not isinstance(action, str):
            raise ActionError(f"Expect an action to be a string, got {type(action).__name__}.")
        episode = self._episode_in_progress()
        room = self.max_transcript_chars - len(episode.transcript)
        block = self._dialect.find(action) if not final and self._block_ends_action(episode) else None
        if block is None or block.end > room:
            episode.write(action[:room])
            return (yield from self._end(episode, truncated=len(action) > room))
        kept = action[: block.end]
        episode.write(kept)
        if episode.interactions_left:
            result = yield from self._execute(episode, block)
            if result.status is Status.INFRASTRUCTURE:
                episode.status = result.status
                _LOG.warning(
                    "Dropping an episode of problem %s: the sandbox failed: %s", episode.problem.id, result.error
                )
                return (yield from self._end(episode, truncated=True, failure=f"the sandbox failed: {result.error}"))
            episode.run_block(result.status)
            printed = render_result(result.stdout, self._error_text(result))
        elif self.on_exhausted == "tell":
            printed, episode.told = EXHAUSTED, True
        else:
            return (yield from self._end(episode, truncated=False))
        left = budget_left(episode.interactions_left, self._blocks) if self.show_budget else ""
        if self._dialect is FENCE:
            feedback = render_feedback(kept, printed, self.max_output_chars) + left
            begin = end = ""
        else:
            feedback = "\n".join(filter(None, (shorten(printed, self.max_output_chars), left.rstrip("\n"))))
            begin, end = "" if kept.endswith("\n") else "\n", "\n"
        episode.feedback = feedback[: max(0, room - block.end - len(begin))]
        episode.transcript += f"{begin}{episode.feedback}{end}"[: room - block.end]
        if len(episode.transcript) >= self.max_transcript_chars:
            return (yield from self._end(episode, truncated=True))
        self._print_unprinted()
        return self._observe(episode), 0.0, False, False, episode.info()

    def write_code(self, code: str) -> str:
        """Return an action that runs exactly this code, in the environment's dialect."""
        return self._dialect.write(code)

    def read_turns(self, messages: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
        """Return the turns of a transcript that others have written: texts of the policy, each with its feedback.

        Raises:
            OptionError: These are no turns of an episode, as for `cir_env.episode.transcripts.read_turns`.
        """
        return read_turns(messages, self._dialect)

    def action_scanner(self) -> Scanner | None:
        """Return a scanner that finds the end of the next action in streamed text.

        A sampler can stop where the scanner reports the end of a block that would be executed, since the environment
        discards the text after it. None if a block does not end the next action: the budget is used up (and
        `on_exhausted` is "silent"), or no episode is in progress.
        """
        episode = self._episode
        is_watched = episode is not None and not episode.over and self._block_ends_action(episode)
        return self._dialect.scanner() if is_watched else None

    @property
    def statement_keys(self) -> tuple[str, ...]:
        """A hash of each problem's statement, the same for statements that differ only in layout."""
        return statement_keys(self.problems)

    @property
    def in_progress(self) -> bool:
        """Whether an episode has begun and is not over."""
        return self._episode is not None and not self._episode.over and not self._closed

    def render(self) -> Any:
        """Return the transcript and its outcome as text ("ansi") or as an image ("rgb_array"), or print it ("human").

        Returns:
            A string; a uint8 array of shape (height, width, 3), the same for every image; or None.

        Raises:
            EpisodeError: The environment was never reset.
            ImportError: The library pillow is not installed ("rgb_array").
        """
        if self._episode is None:
            raise EpisodeError("Expect an episode to render, got an environment that is not reset yet.")
        if self.render_mode in ("ansi", "rgb_array"):
            text = self._episode.transcript + self._episode.outcome
            return text if self.render_mode == "ansi" else draw(text)
        if self.render_mode is None:
            gymnasium.logger.warn('Expect a `render_mode` to render, got None. Pass render_mode="ansi" to make().')
        self._print_unprinted()
        return None

    def close(self) -> None:
        """Release what belongs to this environment only. Closing twice is fine."""
        self._end_session()
        self._closed = True

    def _episode_in_progress(self) -> Episode:
        if self._closed:
            raise EpisodeError("Expect an open environment, got one that is closed. Make a new one.")
        if self._episode is None:
            raise EpisodeError("Expect an episode in progress, got none. Call reset() first.")
        if self._episode.over:
            raise EpisodeError("Expect an episode in progress, got one that is over. Call reset() first.")
        return self._episode

    def _block_ends_action(self, episode: Episode) -> bool:
        """Whether a block ends the next action, so that the text after it is discarded."""
        if episode.interactions_left:
            return True
        if not episode.takes_code:
            return False
        return self.on_exhausted == "end" or (self.on_exhausted == "tell" and not episode.told)

    def _choose_problem(self, options: Mapping[str, Any]) -> int:
        if "problem_index" not in options:
            return int(self.np_random.integers(len(self.problems)))
        index = check_integer("problem_index", options["problem_index"])
        if not 0 <= index < len(self.problems):
            last = len(self.problems) - 1
            raise ProblemError(f"Expect `problem_index` to be from 0 to {last}, got {index}.")
        return index

    def _execute(self, episode: Episode, block: Block) -> Generator["Future[ExecutionResult]", None, ExecutionResult]:
        """Run a block; an unavailable sandbox becomes `Status.INFRASTRUCTURE`, a call without code `Status.ERROR`."""
        if isinstance(block, Call) and block.error:
            return ExecutionResult(status=Status.ERROR, stdout="", error=block.error, cpu_seconds=0.0)
        code = block.code
        problem = episode.problem
        limits = block_limits(problem.time_limit_s, problem.memory_limit_mb, self.limits)
        files: dict[str, Any] = {"files": problem.files} if problem.files else {}
        try:
            sandbox = shared_sandbox(self._sandbox, self._packages) if isinstance(self._sandbox, str) else self._sandbox
            if self.stateful and episode.session is None:
                episode.session = sandbox.open_session(**files)
            if episode.session is not None:
                future = episode.session.submit(code, limits)
            else:
                future = sandbox.submit(code, limits, **files)
            yield future
            return future.result()
        except SandboxUnavailable as error:
            return ExecutionResult(status=Status.INFRASTRUCTURE, stdout="", error=str(error), cpu_seconds=0.0)

    def _end(self, episode: Episode, *, truncated: bool, failure: str = "") -> Stages:
        """End the episode, and grade its answer unless an infrastructure failure ended it."""
        episode.over = True
        episode.reward_valid = not failure
        if failure:
            episode.reason = failure
        elif (answer := episode.answer()) is None:
            episode.reason = episode.why_no_answer()
        else:
            episode.predicted = answer
            verdict = yield from self._grade(episode.problem, answer)
            episode.correct, episode.reward_valid = verdict.correct and verdict.valid, verdict.valid
            episode.reason = verdict.reason or ("judged right" if episode.correct else "judged wrong")
        reward = self._reward(episode, truncated=truncated) if episode.reward_valid else 0.0
        episode.outcome = f"\n[reward {reward:+g}: answer {episode.predicted!r}, right {episode.problem.answer!r}]\n"
        self._end_session()
        self._print_unprinted()
        return self._observe(episode), reward, not truncated, truncated, episode.info()

    def _reward(self, episode: Episode, *, truncated: bool) -> float:
        """Call the reward function; None marks the reward as not valid."""
        reward = self._reward_function(episode.record(truncated=truncated))
        episode.reward_valid = reward is not None
        return 0.0 if reward is None else check_number("reward", reward)

    def _grade(self, problem: Problem, answer: str) -> Generator["Future[Verdict]", None, Verdict]:
        """Grade an answer; an unavailable grader gives a verdict that is not valid."""
        try:
            grader = shared_grader() if self._grader is None else self._grader
            future = grader.submit(
                problem.answer,
                answer,
                problem.answer_type,
                statement=problem.statement,
                metadata=problem.metadata,
            )
            yield future
            verdict = future.result()
        except GraderUnavailable as error:
            verdict = Verdict(correct=False, reason=str(error), valid=False)
        if not verdict.valid:
            _LOG.warning(
                "Dropping an episode of problem %s, right answer %r: it cannot be graded: %s",
                problem.id,
                problem.answer,
                verdict.reason,
            )
        return verdict

    def _error_text(self, result: ExecutionResult) -> str:
        """Return the part of a block's error that the policy sees; empty if there was none."""
        if self.error_format == "neutral" and result.error:
            return NEUTRAL_ERROR
        return result.traceback if self.error_format == "full" and result.traceback else result.error

    def _observe(self, episode: Episode) -> str:
        if self.observation == "transcript":
            return episode.transcript
        return "" if episode.over else episode.feedback

    def _print_unprinted(self) -> None:
        if self.render_mode == "human" and self._episode is not None:
            print_unprinted(self._episode)

    def _end_session(self) -> None:
        if self._episode is not None and self._episode.session is not None:
            self._episode.session.close()
            self._episode.session = None
