"""Every architecture of the zoo."""

from __future__ import annotations

from importlib.util import find_spec

from zoo import convolutional, hugging_face, other, sequence, vision_attention
from zoo.architecture import Architecture

__all__ = ["ARCHITECTURES", "BY_NAME"]

_LIBRARY = hugging_face.ARCHITECTURES if find_spec("transformers") else []

ARCHITECTURES: list[Architecture] = [
    *convolutional.ARCHITECTURES,
    *vision_attention.ARCHITECTURES,
    *sequence.ARCHITECTURES,
    *other.ARCHITECTURES,
    *_LIBRARY,
]
BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}
assert len(BY_NAME) == len(ARCHITECTURES), "names are unique"
