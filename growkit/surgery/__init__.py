"""HOW it changes: edits, their atomic application, and what follows them (optimizers, journal)."""

from growkit.surgery.apply import Operation, apply
from growkit.surgery.carry import Change, ParamChange
from growkit.surgery.edits import Deepen, Edit, Narrow, Widen
from growkit.surgery.journal import Entry, Journal

__all__ = [
    "Change",
    "Deepen",
    "Edit",
    "Entry",
    "Journal",
    "Narrow",
    "Operation",
    "ParamChange",
    "Widen",
    "apply",
]
