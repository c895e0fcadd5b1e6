"""Evaluations and training runs as a page for the browser: one HTML file that needs nothing beside it.

``page.py`` fills the template, ``evaluations.py`` and ``training.py`` say what stands on the page, ``charts.py`` draws,
``transcripts.py`` prepares what the viewer shows. Nothing that a model wrote is ever taken for markup: the template
escapes, and the viewer's script makes text nodes.
"""

from agents.html.page import report_evaluations, report_training

__all__ = ["report_evaluations", "report_training"]
