"""Evaluations and training runs as a page for the browser: one HTML file that needs nothing beside it.

``page.py`` fills the template, ``evaluation_page.py`` and ``training_page.py`` define the content, ``charts.py`` draws,
``viewer.py`` prepares the transcripts. Nothing that a model wrote is ever taken for markup: the template
escapes, and the viewer's script makes text nodes.
"""

from agents.report.page import report_evaluations, report_training

__all__ = ["report_evaluations", "report_training"]
