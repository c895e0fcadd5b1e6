"""Problems: where they come from, and in which splits and mixtures they are played."""

from cir_env.problems.load import load_problems, load_sets
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet

__all__ = ["Problem", "ProblemSet", "load_problems", "load_sets"]
