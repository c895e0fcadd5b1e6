"""Decides whether an answer is right. The grading process imports parts of this package, so it loads nothing itself."""
