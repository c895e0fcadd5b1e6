"""HTML reports of evaluations and training runs: one self-contained file.

``page.py`` fills the template, ``evaluation_page.py`` and ``training_page.py`` define the content, ``charts.py`` draws,
``viewer.py`` prepares the transcripts. Model output is never interpreted as markup: the template escapes it, and the
viewer's script only creates text nodes.
"""

from agents.report.page import report_evaluations, report_training

__all__ = ["report_evaluations", "report_training"]
