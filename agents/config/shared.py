"""What ``train.py`` and ``evaluate.py`` have in common."""

from __future__ import annotations

from typing import Literal

Dtype = Literal["auto", "float32", "bfloat16"]
"""dtype of weights that sample; auto: bfloat16 where the device computes in it, else float32."""
