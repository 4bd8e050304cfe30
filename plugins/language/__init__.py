"""Character-level language models: a small transformer, one Lightning task and one text."""

from __future__ import annotations

from .data import TinyShakespeare
from .models import CharTransformer
from .task import LanguageModel

__all__ = ["CharTransformer", "LanguageModel", "TinyShakespeare"]
