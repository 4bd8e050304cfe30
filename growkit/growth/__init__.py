"""WHEN and WHICH: schedules, candidates, budgets, the choice among them, and the growth event."""

from growkit.growth.budget import Budget
from growkit.growth.candidate import Candidate, Cost
from growkit.growth.context import Context
from growkit.growth.event import Event, grow
from growkit.growth.memory import within_memory
from growkit.growth.ranks import Ranks
from growkit.growth.restart import Standing
from growkit.growth.rewarm import Ramp, Rewarm, rewarm_after
from growkit.growth.schedule import Every, Moment, OnPlateau, Schedule, every, on_plateau, restore_schedule
from growkit.growth.select import select
from growkit.growth.watch import Watch

__all__ = [
    "Budget",
    "Candidate",
    "Context",
    "Cost",
    "Event",
    "Every",
    "Moment",
    "OnPlateau",
    "Ramp",
    "Ranks",
    "Rewarm",
    "Schedule",
    "Standing",
    "Watch",
    "every",
    "grow",
    "on_plateau",
    "restore_schedule",
    "within_memory",
    "rewarm_after",
    "select",
]
