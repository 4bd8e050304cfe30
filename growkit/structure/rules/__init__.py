"""One file a family of operations; importing this package fills the table of rules."""

from growkit.structure.rules import (
    attention,
    contractions,
    cuts,
    indexing,
    making,
    norms,
    recurrent,
    reductions,
    reshape,
    views,
)
from growkit.structure.rules.pointwise import pointwise
from growkit.structure.rules.registry import RULES, Rule, is_pointwise, refuse, rule

__all__ = [
    "RULES",
    "Rule",
    "attention",
    "contractions",
    "cuts",
    "indexing",
    "is_pointwise",
    "making",
    "norms",
    "pointwise",
    "recurrent",
    "reductions",
    "refuse",
    "reshape",
    "rule",
    "views",
]
