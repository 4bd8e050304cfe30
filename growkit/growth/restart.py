"""Let learning-rate schedulers begin anew."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from growkit.errors import SurgeryError

__all__ = ["Standing"]

_PARAMETERS = ("params", "param_names")


class Standing:
    """Where learning-rate schedulers stand, and the settings of the optimizers that they schedule.

    Settings are all that the groups hold but for their parameters: schedulers set momenta and more beside rates, and
    some compute a rate from the one before.

    Args:
        schedulers: with `state_dict`, `load_state_dict` and `optimizer`, as those of torch and Lightning have them.

    Cost: a copy of their states, a few numbers a group.
    """

    def __init__(self, schedulers: Sequence[Any]) -> None:
        self._optimizers: dict[int, Optimizer] = {id(each.optimizer): each.optimizer for each in schedulers}
        self._states = [(each, self._copied(each.state_dict())) for each in schedulers]
        self._settings = {key: self._copied(_settings(optimizer)) for key, optimizer in self._optimizers.items()}

    def restore(self, schedulers: Sequence[Any]) -> None:
        """Put schedulers, and the settings of their optimizers, back to where they stood.

        Args:
            schedulers: those of them that shall go back; others are left alone.

        Raises:
            SurgeryError: a scheduler does not take its own state; some may have gone back.
        """
        for scheduler, state in self._states:
            if not any(scheduler is each for each in schedulers):
                continue
            try:
                scheduler.load_state_dict(self._copied(state))
            except Exception as error:
                raise SurgeryError(
                    f"the learning-rate scheduler {type(scheduler).__name__} cannot begin anew",
                    seen=f"{type(error).__name__}: {error}",
                    expected="`load_state_dict` to take what `state_dict` returned at the beginning",
                    advice="mend the scheduler, or do without Rewarm(restart=True)",
                ) from error
            optimizer = scheduler.optimizer
            for group, settings in zip(optimizer.param_groups, self._settings[id(optimizer)], strict=False):
                _set(group, self._copied(settings))

    def _copied(self, value: Any) -> Any:
        """Return a copy that shares the optimizers: some schedulers keep others in their state."""
        return copy.deepcopy(value, dict(self._optimizers))


def _settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{key: value for key, value in g.items() if key not in _PARAMETERS} for g in optimizer.param_groups]


def _set(group: dict[str, Any], settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        if isinstance(value, Tensor) and isinstance(group.get(key), Tensor):
            group[key].copy_(value)  # compiled steps hold the tensor
        else:
            group[key] = value
