r"""The environment: a problem, what a policy writes about it, and what its code prints."""

import logging
import os
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, Final, Literal

import gymnasium

from cir_env.episode.prompts import (
    EXHAUSTED,
    NEUTRAL_ERROR,
    Prompt,
    find_prompt,
    find_system_prompt,
    join_messages,
    render_feedback,
    render_messages,
    render_result,
    say_budget,
    say_left,
)
from cir_env.episode.rewards import Reward, correctness
from cir_env.episode.state import Episode, print_news
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
from cir_env.parsing import BlockScanner, find_block
from cir_env.problems.contamination import decontaminate as leave_out_benchmarks
from cir_env.problems.load import is_procedural, load_problems, with_answer_type
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet
from cir_env.sandbox import ExecutionResult, Limits, Sandbox, Status, shared_sandbox
from cir_env.spaces import UnicodeText

_LOG: Final = logging.getLogger("cir_env")
_RESET_OPTIONS: Final = ("problem_index", "interaction_budget")
_WALL_PER_CPU_SECOND: Final = 12.0

StepResult = tuple[str, float, bool, bool, dict[str, Any]]
"""Observation, reward, terminated, truncated, information."""
Stages = Generator["Future[Any]", None, StepResult]
"""A step that yields each future that has to be done before it goes on, and returns its result."""


class CodeMathEnv(gymnasium.Env[str, str]):
    r"""Solve a problem of mathematics by writing text, parts of which are Python programs that are executed.

    ## Description
    The policy is a language model that continues a transcript. When it has written a Python code block, the block
    is executed in a sandbox, what it printed is appended to the transcript, and the policy goes on from there. Its
    answer stands in `\boxed{}`. How many blocks an episode may execute is limited by the interaction budget. This
    is code-integrated reasoning as in [1].

    ```python
    >>> import gymnasium, cir_env
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
    `UnicodeText()`: any string. It continues the transcript.

    - If it holds a complete Python block with a body (the rules are in `cir_env.parsing`) and interactions are
      left, the transcript keeps the action up to the block's closing fence and the blanks and newlines behind it;
      the rest is discarded. The block is executed and the feedback appended: on a line of its own, ```` ```output
      ````, the result, and ```` ``` ````, each on its line. The result is what the block printed and, if it failed,
      the last line of the traceback; of a result longer than `max_output_chars` the first and the last half of so
      many characters stay, with `...` between them.
    - Otherwise it is the final answer. When the budget is used up, a block is text like any other and gets no
      notice, unless `on_exhausted` says otherwise.

    ## Observation Space
    `UnicodeText(max_transcript_chars)`. With `observation="transcript"` the whole transcript: the prompt, what was
    kept of the actions, and the feedback, so that `policy(observation)` is all an agent needs. With
    `observation="feedback"` only what the environment itself added: the prompt at `reset`, the feedback at `step`,
    and the empty string once the episode is over; for agents that own the token stream.

    ## Rewards
    `reward_correct` (1.0) or `reward_incorrect` (-1.0) at the end of the episode, 0.0 before. The answer is the last
    balanced `\boxed{}` that the policy itself wrote in any of its turns, outside of code blocks; what a program
    printed never counts. No box is incorrect. When a fault of ours, not of the policy, ends the episode or keeps
    its answer from being judged, the reward is 0.0 and `info["reward_valid"]` is False: leave that episode out.

    ## Starting State
    A problem, drawn uniformly from the problem set with the environment's generator `np_random`, behind the
    prompt. `reset(options={"problem_index": i, "interaction_budget": b})` picks the problem (then nothing is drawn)
    and the budget of this one episode; either may be left out.

    ## Episode End
    Never are both true:

    1. Termination: the policy gave its final answer.
    2. Truncation: the transcript reached `max_transcript_chars`. It is cut there and graded as it stands.
    3. Truncation: the sandbox failed. The reward is not valid.

    ## Information
    `reset` and `step` return the same keys:

    - `messages` (`tuple` of `dict`): the prompt as a chat, each message with `role` and `content`, for models with a
      chat template. The transcript holds their contents with a blank line between them.
    - `problem_id`, `statement`, `source`, `subject`, `level` (`str`): of the problem.
    - `problem_index` (`int`): its place in the problem set.
    - `interaction_budget`, `interactions_left` (`int`): how many blocks this episode may and still may execute.
    - `n_code_blocks` (`int`): complete Python blocks in what was kept so far, executed or not.
    - `execution_status` (`str` or `None`): how this step's block ended, a value of `cir_env.sandbox.Status`.
    - `feedback` (`str`): what this step appended behind the action.
    - `kept_chars` (`int`): how many characters of the action stay in the transcript.
    - `predicted` (`str` or `None`): the answer that was graded; `None` before the end, or without a box.
    - `correct` (`bool`): whether it is right; `False` before the end.
    - `reason` (`str`): why, in a few words; empty before the end, or without a box.
    - `reward_valid` (`bool`): `False` if a fault of ours decided the reward.
    - `answer` (`str` or `None`): the right answer; `None` before the end.

    ## Arguments
    All by keyword, as in `gymnasium.make("CodeMath-v0", interaction_budget=4)`:

    - `problems` ("arithmetic"): a `ProblemSet`, or a text that `cir_env.problems.load` can read: the name of a
      generator or of a data set, `hub:OWNER/NAME`, `benchmark:NAME`, a path, or a mixture such as `dapo*3+mixed`.
    - `split` ("train"): "train" or "test".
    - `decontaminate` (None): a folder with files of benchmarks; problems that are in one of them, by the rules of
      `cir_env.problems.contamination`, are left out. The attribute `data_summary` says in a line how many there were.
    - `answer_type` (None): how the answers of all problems are compared with the right ones, such as
      "number?rel_tol=0.01", "choice", "set", "interval" or "module:function" (a verifier of your own); see
      `cir_env.grading.answer_types`. By default each problem says so itself; "math", the paper's semantics, is its
      default.
    - `interaction_budget` (2): how many blocks an episode may execute; 0 for text only.
    - `observation` ("transcript"): or "feedback".
    - `prompt` ("cir"): a name in `cir_env.episode.prompts.PROMPTS`; a path that ends in .txt or .md, to a template
      that holds `{problem}` once; or a function from a `Problem` to a text, or to messages with `role` and `content`,
      which may be named as "module:function".
    - `system_prompt` (None): the system message, a text or a path that ends in .txt or .md. It stands before the
      prompt, and replaces the prompt's own system message if there is one.
    - `reward_correct` (1.0), `reward_incorrect` (-1.0).
    - `reward` (None): a function from a `cir_env.EpisodeRecord` to a number, in place of those two, or to None for an
      episode to drop; or its name as "module:function". `cir_env.episode.rewards` has ready ones, and `total` to add
      them up.
    - `on_exhausted` ("silent"): what is done about a block when the budget is used up. "silent": nothing, as in the
      paper; a policy learns by the reward alone that nothing comes back. "tell": once in an episode the block is
      answered with a line that says so, and the policy may still answer; for policies not trained on a budget.
      "end": the episode ends behind the block, so that what a policy writes in vain is neither sampled nor trained on.
    - `show_budget` (False): whether the prompt says how many blocks will be executed, and each feedback how many are
      left; with a budget that varies a policy can only plan if it is told.
    - `stateful` (False): whether a block sees what earlier blocks of the episode defined.
    - `time_limit_s` (5.0): CPU time of one block in seconds.
    - `memory_limit_mb` (512): memory of one block in MB.
    - `max_output_chars` (400): how many characters of a block's result are fed back.
    - `max_transcript_chars` (65536): how long a transcript may get in characters, prompt included.
    - `error_format` ("last_line"): how much of a failed block's traceback is fed back; or "full", without frames that
      are not the block's; or "neutral": in its place always "The code did not run to its end.", to measure what
      policies make of error messages. What the block printed before stays.
    - `sandbox` ("local"): what `cir_env.sandbox.shared_sandbox` takes ("unsafe", addresses of servers), shared by all
      environments of the process and started at the first block; or a `cir_env.sandbox.Sandbox`, which the caller
      closes.
    - `packages` (()): installed packages, by the names they are imported under, that blocks may import beside the
      standard library and those of `cir_env.sandbox.host.launch.PRELOAD`. Name the packages that they import, too.
      Not with a sandbox server, which decides this itself.
    - `grader` (None): a `cir_env.Grader`, which the caller closes; by default one that all environments share.
    - `render_mode` (None): with "ansi" `render()` returns the transcript, with "human" it is printed as it grows.

    Environments are independent of each other and may live in different threads; one environment serves one
    thread at a time.

    ## References
    [1] "Towards Effective Code-Integrated Reasoning", 2025. https://arxiv.org/abs/2505.24480

    ## Version History
    - v0: first version
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        *,
        problems: ProblemSet | str | os.PathLike[str] = "arithmetic",
        split: str = "train",
        decontaminate: str | os.PathLike[str] | None = None,
        answer_type: str | None = None,
        interaction_budget: int = 2,
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
        render_mode: Literal["ansi", "human"] | None = None,
    ) -> None:
        """Describe the environment; see the class for the arguments.

        Raises:
            OptionError: An argument is out of its range or of the wrong type.
            ProblemError: The problems cannot be found or read, or one has an answer that is not of `answer_type`.
        """
        self._template, self._system_prompt = find_prompt(prompt), find_system_prompt(system_prompt)
        self.problems = load_problems(problems, split)
        if decontaminate is not None:
            self.problems = leave_out_benchmarks(self.problems, decontaminate)
        unchecked = decontaminate is None and not is_procedural(problems)
        self.data_summary = self.problems.summary() + ("; not checked against benchmarks" if unchecked else "")
        if answer_type is not None:
            self.problems = with_answer_type(self.problems, answer_type)
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
        self.on_exhausted = check_choice("on_exhausted", on_exhausted, ("silent", "tell", "end"))
        self.show_budget = check_choice("show_budget", show_budget, (False, True))
        self.prompt = prompt
        self.observation = check_choice("observation", observation, ("transcript", "feedback"))
        self.stateful = check_choice("stateful", stateful, (False, True))
        self.render_mode = check_choice("render_mode", render_mode, (None, "ansi", "human"))
        self.limits = Limits(
            time_limit_s=check_number("time_limit_s", time_limit_s),
            memory_limit_mb=check_integer("memory_limit_mb", memory_limit_mb, 1),
            wall_limit_s=max(Limits().wall_limit_s, _WALL_PER_CPU_SECOND * time_limit_s),
        )
        self.error_format = check_choice("error_format", error_format, ("last_line", "full", "neutral"))
        if not isinstance(sandbox, Sandbox | str):
            raise OptionError(f"Expect `sandbox` to be a `Sandbox` or a name, got {type(sandbox).__name__}.")
        if isinstance(sandbox, str):
            shared_sandbox(sandbox, packages)  # refuses bad names now; a copy in another process makes its own
        elif packages:
            raise OptionError(
                "Expect `packages` beside the name of a sandbox alone, got a `Sandbox`, which has its own."
            )
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
            seed: Seeds `np_random`; without it the random numbers go on.
            options: "problem_index" and "interaction_budget", for this episode alone.

        Returns:
            The prompt, and the information.

        Raises:
            OptionError: An option is unknown or out of its range, or the prompt leaves no room in the transcript.
            ProblemError: There is no problem of that index.
            EpisodeError: The environment is closed.
        """
        if self._closed:
            raise EpisodeError("Expect an open environment, got one that is closed. Make a new one.")
        options = check_reset_options(options, _RESET_OPTIONS)
        budget = check_integer("interaction_budget", options.get("interaction_budget", self.interaction_budget), 0)
        super().reset(seed=seed)
        index = self._choose_problem(options)
        problem = self.problems[index]
        messages = render_messages(self._template, problem, self._system_prompt)
        if self.show_budget:
            messages = say_budget(messages, budget)
        prompt = join_messages(messages)
        if len(prompt) >= self.max_transcript_chars:
            raise OptionError(
                f"Expect `max_transcript_chars` to leave room behind the prompt, got {self.max_transcript_chars} "
                f"for the {len(prompt)} characters of problem {problem.id!r}. Raise it, or leave the problem out."
            )
        self._end_session()
        self._episode = Episode(
            problem=problem,
            problem_index=index,
            messages=messages,
            budget=budget,
            interactions_left=budget,
            transcript=prompt,
        )
        self._print_news()
        return prompt, self._episode.info()

    def step(self, action: str) -> StepResult:
        """Continue the transcript with what the policy wrote.

        Args:
            action: Any string.

        Returns:
            Observation, reward, terminated, truncated, information; see the class.

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
        """Do what `step` does in stages, for callers that serve many environments in one thread.

        Args:
            action: Any string.
            final: Take it as the final answer whatever blocks it holds, for policies that ask for executions by other
                means, such as tool calls.

        Returns:
            A generator, which does nothing before its first `next`: it yields each future (an execution, a grading)
            that has to be done before it is asked to go on, and returns what `step` returns.
        """
        if not isinstance(action, str):
            raise ActionError(f"Expect an action to be a string, got {type(action).__name__}.")
        episode = self._episode_in_progress()
        room = self.max_transcript_chars - len(episode.transcript)
        block = find_block(action) if not final and self._block_ends_action(episode) else None
        if block is None or block.end > room:
            episode.write(action[:room])
            return (yield from self._end(episode, truncated=len(action) > room))
        kept = action[: block.end]
        episode.write(kept)
        if episode.interactions_left:
            result = yield from self._execute(episode, block.code)
            if result.status is Status.INFRASTRUCTURE:
                episode.status = result.status
                _LOG.warning(
                    "Leaving out an episode of problem %s: no block can be run: %s", episode.problem.id, result.error
                )
                return (yield from self._end(episode, truncated=True, fault=True))
            episode.run_block(result.status)
            printed = render_result(result.stdout, self._error_text(result))
        elif self.on_exhausted == "tell":
            printed, episode.told = EXHAUSTED, True
        else:
            return (yield from self._end(episode, truncated=False))
        feedback = render_feedback(kept, printed, self.max_output_chars)
        feedback += say_left(episode.interactions_left) if self.show_budget else ""
        episode.feedback = feedback[: room - block.end]
        episode.transcript += episode.feedback
        if len(episode.transcript) >= self.max_transcript_chars:
            return (yield from self._end(episode, truncated=True))
        self._print_news()
        return self._observe(episode), 0.0, False, False, episode.info()

    def action_scanner(self) -> BlockScanner | None:
        """Return what finds the end of the next action in a text that comes in pieces.

        It says where a block ends that would be executed, so that a sampler can stop there instead of writing
        what the environment discards. None where nothing ends an action: no interactions are left (and nothing is
        done about that), or no episode is in progress.
        """
        episode = self._episode
        return BlockScanner() if episode and not episode.over and self._block_ends_action(episode) else None

    @property
    def in_progress(self) -> bool:
        """Whether an episode has begun that is not over."""
        return self._episode is not None and not self._episode.over and not self._closed

    def render(self) -> str | None:
        """Return the transcript and how it ended ("ansi"), or print what of it is new ("human").

        Raises:
            EpisodeError: There is no transcript yet.
        """
        if self._episode is None:
            raise EpisodeError("Expect an episode to render, got an environment that is not reset yet.")
        if self.render_mode == "ansi":
            return self._episode.transcript + self._episode.outcome
        if self.render_mode is None:
            gymnasium.logger.warn('Expect a `render_mode` to render, got None. Pass render_mode="ansi" to make().')
        self._print_news()
        return None

    def close(self) -> None:
        """End what belongs to this environment alone; calling it twice is fine."""
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
        """Whether what follows a block in the next action is discarded."""
        if episode.interactions_left:
            return True
        return self.on_exhausted == "end" or (self.on_exhausted == "tell" and not episode.told)

    def _choose_problem(self, options: Mapping[str, Any]) -> int:
        if "problem_index" not in options:
            return int(self.np_random.integers(len(self.problems)))
        index = check_integer("problem_index", options["problem_index"])
        if not 0 <= index < len(self.problems):
            last = len(self.problems) - 1
            raise ProblemError(f"Expect `problem_index` to be from 0 to {last}, got {index}.")
        return index

    def _execute(self, episode: Episode, code: str) -> Generator["Future[ExecutionResult]", None, ExecutionResult]:
        """Run a block; a sandbox that cannot is a fault like any other of its faults."""
        try:
            sandbox = shared_sandbox(self._sandbox, self._packages) if isinstance(self._sandbox, str) else self._sandbox
            if self.stateful and episode.session is None:
                episode.session = sandbox.open_session()
            future = (episode.session or sandbox).submit(code, self.limits)
            yield future
            return future.result()
        except SandboxUnavailable as error:
            return ExecutionResult(status=Status.INFRASTRUCTURE, stdout="", error=str(error), cpu_seconds=0.0)

    def _end(self, episode: Episode, *, truncated: bool, fault: bool = False) -> Stages:
        """End the episode; unless a fault of ours ends it, grade what stands."""
        episode.over = True
        episode.reward_valid = not fault
        if not fault and (answer := episode.answer()) is not None:
            episode.predicted = answer
            verdict = yield from self._grade(episode.problem, answer)
            episode.correct, episode.reward_valid = verdict.correct and verdict.valid, verdict.valid
            episode.reason = verdict.reason
        reward = self._reward(episode, truncated=truncated) if episode.reward_valid else 0.0
        episode.outcome = f"\n[reward {reward:+g}: answer {episode.predicted!r}, right {episode.problem.answer!r}]\n"
        self._end_session()
        self._print_news()
        return self._observe(episode), reward, not truncated, truncated, episode.info()

    def _reward(self, episode: Episode, *, truncated: bool) -> float:
        """Ask the reward function; where it has no opinion, the episode is left out."""
        reward = self._reward_function(episode.record(truncated=truncated))
        episode.reward_valid = reward is not None
        return 0.0 if reward is None else check_number("reward", reward)

    def _grade(self, problem: Problem, answer: str) -> Generator["Future[Verdict]", None, Verdict]:
        """Judge an answer; a grader that cannot be asked is a fault like any other of its faults."""
        try:
            grader = shared_grader() if self._grader is None else self._grader
            future = grader.submit(problem.answer, answer, problem.answer_type)
            yield future
            verdict = future.result()
        except GraderUnavailable as error:
            verdict = Verdict(correct=False, reason=str(error), valid=False)
        if not verdict.valid:
            _LOG.warning(
                "Leaving out an episode of problem %s, right answer %r: it cannot be graded: %s",
                problem.id,
                problem.answer,
                verdict.reason,
            )
        return verdict

    def _error_text(self, result: ExecutionResult) -> str:
        """Return what the policy sees of a block's error; empty where there was none."""
        if self.error_format == "neutral" and result.error:
            return NEUTRAL_ERROR
        return result.traceback if self.error_format == "full" and result.traceback else result.error

    def _observe(self, episode: Episode) -> str:
        if self.observation == "transcript":
            return episode.transcript
        return "" if episode.over else episode.feedback

    def _print_news(self) -> None:
        """Print what of the transcript was not printed yet, if someone watches."""
        if self.render_mode == "human" and self._episode is not None:
            print_news(self._episode)

    def _end_session(self) -> None:
        if self._episode is not None and self._episode.session is not None:
            self._episode.session.close()
            self._episode.session = None
