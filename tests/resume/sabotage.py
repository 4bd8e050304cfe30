"""Parts of resuming, left out: a comparison that does not see one missing is no comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import growkit
from growkit.growth import OnPlateau, Ramp
from growkit.lightning import callback
from growkit.lightning.loaders import _Walk
from growkit.lightning.rates import Rates


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _leave_out(owner: Any, name: str, instead: Callable[..., Any] = _nothing) -> Callable[[], None]:
    return lambda: setattr(owner, name, instead)


SABOTAGE: dict[str, Callable[[], None]] = {
    "random numbers": _leave_out(growkit.Growth, "_restore_randomness"),
    "places in loaders": _leave_out(_Walk, "_catch_up", lambda walk, state: walk._create()),
    "what was under way": _leave_out(callback, "catch_up"),
    "a validation that was due": _leave_out(callback, "rewind"),
    "the schedule of growth": _leave_out(OnPlateau, "load_state_dict"),
    "how learning rates began": _leave_out(Rates, "restart", lambda rates, schedulers: _nothing),
    "learning rates on the way up": _leave_out(Ramp, "from_state", lambda *_: None),
}
