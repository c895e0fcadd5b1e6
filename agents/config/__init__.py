"""Every flag of ``train.py`` and ``evaluate.py`` as frozen dataclasses, and the presets. It imports nothing heavy."""
