"""Problems and where they come from.

`load` resolves a name to a problem set: a generator (`generators`, `families`), a data set or file (`problem_set`,
`rows`), a benchmark (`benchmarks`) or a mixture of these (`mixtures`). `splits` holds out problems of a single file,
and `contamination` drops training problems that overlap with a benchmark.
"""

from cir_env.problems.load import load_problems, load_sets
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet

__all__ = ["Problem", "ProblemSet", "load_problems", "load_sets"]
