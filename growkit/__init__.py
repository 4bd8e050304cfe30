"""growkit: grow neural networks while they train."""

from growkit.errors import (
    CheckpointError,
    GrowkitError,
    PeerError,
    PluginError,
    RankError,
    RecipeError,
    StructureError,
    SurgeryError,
)
from growkit.growth import Budget, Candidate, Context, Event, Rewarm, Schedule, every, on_plateau
from growkit.hookspecs import hookimpl
from growkit.lightning import Growth, load
from growkit.plugins import Plugin
from growkit.structure import Slice, Structure, Width, trace
from growkit.surgery import Change, Deepen, Edit, Journal, Narrow, ParamChange, Widen, apply

__all__ = [
    # what may change
    "trace",
    "Structure",
    "Width",
    "Slice",
    # how it changes
    "apply",
    "Edit",
    "Widen",
    "Narrow",
    "Deepen",
    "Change",
    "ParamChange",
    "Journal",
    # when and which
    "Growth",
    "load",
    "every",
    "on_plateau",
    "Schedule",
    "Rewarm",
    "Budget",
    "Candidate",
    "Context",
    "Event",
    # plugins
    "Plugin",
    "hookimpl",
    # errors
    "GrowkitError",
    "StructureError",
    "SurgeryError",
    "PluginError",
    "RecipeError",
    "CheckpointError",
    "RankError",
    "PeerError",
]
