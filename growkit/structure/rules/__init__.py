"""One file a family of operations; importing this package fills the table of rules."""

from growkit.structure.rules import contractions, norms, reductions, views
from growkit.structure.rules.pointwise import pointwise
from growkit.structure.rules.registry import RULES, Rule, refuse, rule

__all__ = ["RULES", "Rule", "contractions", "norms", "pointwise", "reductions", "refuse", "rule", "views"]
