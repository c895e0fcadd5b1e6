"""Hypothesis strategies for answers."""

from hypothesis import strategies as st

PIECES = [*"0123456789xyi+-*/^_=.,;:!|(){}[]<>$% °\\\n", "\\frac{", "\\sqrt{", "\\text{", "\\boxed{"]
LATEX = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
ANY_TEXT = st.text(max_size=60) | LATEX
