"""HTML reports of evaluations and training runs: one self-contained file.

``page.py`` fills the template, ``evaluation_page.py`` and ``training_page.py`` define the content, ``charts.py`` the
charts, which plotly draws in the browser. ``viewer.py`` prepares the transcripts, ``formulas.py`` their formulas.
``watch.py`` serves the page of a run in progress. Model output is never interpreted as markup: the template escapes it,
and the viewer's script creates text nodes, and MathML from a fixed list of elements.
"""

from agents.report.page import report_evaluations, report_training

__all__ = ["report_evaluations", "report_training"]
