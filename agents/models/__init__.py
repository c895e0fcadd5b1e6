"""Resolves a model's name to a folder, and loads weights from a folder onto a device."""
