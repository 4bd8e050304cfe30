"""Optimizers of torch.optim with random groups, and what must be true of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from surgery.optimizer_cases import OPTIMIZERS
from torch import Tensor, nn, optim

from growkit.lightning.checkpoint import layout_of

Layout = Sequence[Sequence[Sequence[str]]]


class Recipe:
    """Which optimizers train a model, and how its parameters are divided among groups.

    Args:
        random: draws all choices.
        model: to train; some of its parameters may be left out.
    """

    def __init__(self, random: Random, model: nn.Module) -> None:
        self.name = random.choice([*OPTIMIZERS, "Adafactor", "LBFGS", "Muon"])
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        matrices = [name for name in trained if model.get_parameter(name).dim() == 2]
        if self.name == "Muon" and 0 < len(matrices) < len(trained):
            shares = [matrices, [name for name in trained if name not in matrices]]
            self._makers = [lambda groups: optim.Muon(groups, 0.01), optim.AdamW]
        else:
            shares, self._makers = [trained], [_maker(self.name)]
        self.layout = [_groups(random, share, 1 if self.name == "LBFGS" else 3) for share in shares]
        self._rates = [[random.choice((0.3, 1.0)) for _ in groups] for groups in self.layout]

    def make(self, model: nn.Module, layout: Layout) -> list[optim.Optimizer]:
        """Return fresh optimizers whose groups hold the parameters with the given names."""
        parameters = dict(model.named_parameters())
        made = []
        for maker, groups, rates in zip(self._makers, layout, self._rates, strict=True):
            made.append(maker([{"params": [parameters[name] for name in names]} for names in groups]))
            for group, rate in zip(made[-1].param_groups, rates, strict=True):
                group["lr"] *= rate
        return made


def _maker(name: str) -> Any:
    others = {
        "Adafactor": lambda groups: optim.Adafactor(groups, 0.01),
        "LBFGS": lambda groups: optim.LBFGS(groups, 0.05, max_iter=2, history_size=3),
        "Muon": optim.AdamW,  # where there are no matrices, or nothing else
    }
    return others.get(name) or OPTIMIZERS[name]


def _groups(random: Random, names: Sequence[str], most: int) -> list[list[str]]:
    """Divide names, in any order, among so many groups at the most, none of them empty."""
    shuffled = random.sample(list(names), len(names))
    count = random.randint(1, min(most, len(names)))
    return [shuffled[index::count] for index in range(count)]


def scrambled(layout: Layout, random: Random) -> list[list[list[str]]]:
    """Return a layout with groups of the same sizes and any names in them."""
    result = []
    for groups in layout:
        names = [name for group in groups for name in group]
        rest = iter(random.sample(names, len(names)))
        result.append([[next(rest) for _ in group] for group in groups])
    return result


def check_optimizers(model: nn.Module, optimizers: Sequence[optim.Optimizer]) -> None:
    """Demand that optimizers hold parameters of the model and nothing else, with state of their shapes."""
    held = [name for groups in layout_of(model, optimizers) for names in groups for name in names]
    assert "" not in held, "a stale parameter"
    assert len(held) == len(set(held))
    for optimizer in optimizers:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        assert set(map(id, optimizer.state)) <= set(map(id, parameters)), "stale state"
        for parameter, state in optimizer.state.items():
            if isinstance(optimizer, optim.LBFGS):
                _check_joint(state, sum(each.numel() for each in parameters))
            else:
                _check_own(state, parameter)


def _check_own(state: Mapping[str, Any], parameter: Tensor) -> None:
    *batch, rows, columns = (1, 1, *parameter.shape)[-max(2, parameter.dim()) :]
    factors = {"row_var": (*batch, rows, 1), "col_var": (*batch, 1, columns)}
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim():
            assert value.shape == factors.get(key, parameter.shape), key
            assert value.dtype == parameter.dtype


def _check_joint(state: Mapping[str, Any], size: int) -> None:
    vectors = [state.get("d"), state.get("prev_flat_grad"), *state.get("old_dirs", ()), *state.get("old_stps", ())]
    assert all(vector is None or vector.numel() == size for vector in vectors)
