"""What the tests of optimizers share: a small network, its data, and every optimizer of torch.optim."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, optim

COPIES = (1, 1, 3)
UNITS = [0, 1, 2, 3, 1, 1, 3]
SHARE = torch.tensor([1, 1 / 3, 1, 1 / 2, 1 / 3, 1 / 3, 1 / 2], dtype=torch.float64)
PROBE = (torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64),)


class Make(NamedTuple):
    """An optimizer class and its options."""

    cls: type[optim.Optimizer]
    options: dict[str, Any]

    def __call__(self, parameters: Iterable[Any]) -> optim.Optimizer:
        return self.cls(parameters, **self.options)

    def having(self, option: str) -> Make | None:
        """Return the same with one more option, or None if the class does not have it."""
        known = option in inspect.signature(self.cls).parameters
        return Make(self.cls, {**self.options, option: True}) if known else None


def make(cls: type[optim.Optimizer], lr: float, **options: Any) -> Make:
    return Make(cls, {"lr": lr, **options})


# Those whose state is shaped like the parameter, dense gradients of any shape in.
OPTIMIZERS = {
    "SGD": make(optim.SGD, 0.05),
    "SGD momentum": make(optim.SGD, 0.05, momentum=0.9),
    "SGD Nesterov": make(optim.SGD, 0.02, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": make(optim.Adam, 0.01),
    "Adam amsgrad": make(optim.Adam, 0.01, amsgrad=True),
    "Adam decoupled": make(optim.Adam, 0.01, weight_decay=1e-3, decoupled_weight_decay=True),
    "AdamW": make(optim.AdamW, 0.01),
    "AdamW amsgrad": make(optim.AdamW, 0.01, amsgrad=True),
    "RMSprop": make(optim.RMSprop, 0.005),
    "RMSprop centered": make(optim.RMSprop, 0.005, centered=True),
    "RMSprop momentum": make(optim.RMSprop, 0.001, momentum=0.9, centered=True),
    "NAdam": make(optim.NAdam, 0.01),
    "NAdam decoupled": make(optim.NAdam, 0.01, weight_decay=1e-3, decoupled_weight_decay=True),
    "RAdam": make(optim.RAdam, 0.01),
    "RAdam decoupled": make(optim.RAdam, 0.01, weight_decay=1e-3, decoupled_weight_decay=True),
    "Adagrad": make(optim.Adagrad, 0.05),
    "Adagrad with a start": make(optim.Adagrad, 0.05, initial_accumulator_value=0.1),
    "Adadelta": make(optim.Adadelta, 1.0),
    "Adamax": make(optim.Adamax, 0.01),
    "Rprop": make(optim.Rprop, 0.001),
    "ASGD": make(optim.ASGD, 0.05, t0=0),
}


def variants(*options: str) -> dict[str, Make]:
    """Return every optimizer that has one of the options, with it."""
    found = {f"{name} {option}": made.having(option) for name, made in OPTIMIZERS.items() for option in options}
    return {name: made for name, made in found.items() if made is not None}


def network(device: str = "cpu") -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double().to(device)


def deep() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def data(count: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return inputs, inputs[:, :2].sin()


def train(model: nn.Module, optimizer: optim.Optimizer, steps: int, count: int = 16) -> list[float]:
    inputs, targets = (each.to(next(model.parameters()).device) for each in data(count))
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean() * (1 + step % 2)
        (-loss if optimizer.param_groups[0].get("maximize") else loss).backward()
        optimizer.step()
        losses.append(loss.item() / (1 + step % 2))
    return losses


def standing_still(optimizer: optim.Optimizer) -> optim.Optimizer:
    """Without a learning rate the state gathers gradients of one model; eps, decay and least steps are away too."""
    still = {"lr": 0.0, "eps": 1e-14, "weight_decay": 0.0, "step_sizes": (0.0, 50.0)}
    for group in optimizer.param_groups:
        group.update({key: value for key, value in still.items() if key in group})
    return optimizer


def state_of(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name} {key}": value.clone()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def places_of(model: nn.Module, optimizer: optim.Optimizer) -> list[list[str]]:
    """Return the names of the parameters in each group."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def closure_for(model: nn.Module, optimizer: optim.Optimizer) -> Callable[[], Tensor]:
    inputs, targets = data()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        return loss

    return closure
