"""What helps where a width cannot change, by the reason for it."""

from __future__ import annotations

__all__ = ["ON_DEMAND", "OTHERWISE", "REGARDLESS", "helps"]

ON_DEMAND = "add new ones with Widen(..., output=True); those that are there stay what they are"
REGARDLESS = "pass exact=False if the output may change"
OTHERWISE = "write this operation in another way"

_POSITION = "units that are told apart by their place cannot be copied: choose them by a weight instead"
_SIZES = "take sizes from shapes and from attributes of the module, and cut equal pieces with `chunk`"
_DATA = "leave it: it belongs to the data, or to an operation without weights"

# The first phrase that stands in a reason counts.
_ADVICE = {
    "the model's input": "change the data and what reads them by hand; for the rest of the model it is given",
    "gives its size as the number": "take the number from a shape, or make it an attribute of the module",
    "is the number": "take the number from a shape, or make it an attribute of the module",
    "computes its size": "compute it from shapes and attributes by +, -, * and //, without real numbers in between",
    "reconcile": _SIZES,
    "cuts through": _SIZES,
    "unequal pieces": _SIZES,
    "regroups": _SIZES,
    "beside its one entry": _SIZES,
    "by a size of the data": "give the other size of the view instead, from an attribute of the module",
    "where the data say": "leave it: it is as long as the longest data",
    "along a longer axis": "give the tensor one entry for each unit; or trace a batch of two",
    "may also run through": "trace the model on an example that uses it",
    "has no dimension rule": "add a rule for the operation by the hook growkit_rules",
    "out of torch": "compute it by functions of torch, or say what it means by the hook growkit_rules",
    "power iteration": "take the spectral norm off, grow, and put it on again",
    "in no parameter": "leave it: nothing there is trained",
    "together with other units": "normalise what is joined part by part",
    "no weight that could share": "let a weight follow these units, or average instead of summing",
    "neither factor can share": "let a weight follow one of the factors",
    "both have to share": "let a weight follow the product",
    "to a norm": "divide by the norm alone, as F.normalize does, or average over the units instead",
    "to a distance": "average over the units instead",
    "is used as a number": "keep that number in an attribute of its own",
    "divides by": "keep the divisor in an attribute of its own",
    "over pairs": "give each of the two axes a width of its own",
    "failed its probe": "look for sizes that are written as numbers in `forward`",
    **dict.fromkeys(("looks its", "some of its", "every so many", "one of its", "each of its"), _POSITION),
    **dict.fromkeys(("order", "numbers its", "by their position", "drops", "takes one unit in"), _POSITION),
    **dict.fromkeys(
        ("was made by", "was reduced by", "was inserted by", "was regrouped", "output extent", "kernel"), _DATA
    ),
    **dict.fromkeys(("transforms along", "slides over", "makes pixels"), _DATA),
}


def helps(reason: str) -> str | None:
    """Return what a user can do about a size that cannot change.

    Args:
        reason: why it cannot.
    """
    return next((advice for phrase, advice in _ADVICE.items() if phrase in reason), None)
