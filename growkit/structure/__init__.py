"""WHAT may change: dimension expressions, the trace that finds them, and the widths they amount to."""

from growkit.structure.widths import Slice, Structure, Width, trace, trace_example

__all__ = ["Slice", "Structure", "Width", "trace", "trace_example"]
