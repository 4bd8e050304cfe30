"""Copies of the module that callbacks keep, such as moving averages of its weights, follow a change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import StochasticWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from growkit.growth.private import private_copy
from growkit.surgery import Change

__all__ = ["copies_of", "follow_change", "following_structure", "go_on_averaging"]

Shapes = Mapping[str, torch.Size]


def follow_change(trainer: pl.Trainer, module: nn.Module, change: Change) -> Callable[[], None]:
    """Bring the copies along that callbacks keep of a module.

    The average of weights is carried as the weights are, which is exact since carrying is linear; what the event added
    to the weights beyond that (offsets, weights of new units) is added to the average, too.

    Args:
        trainer: whose callbacks keep the copies, as attributes: modules of the same class, or `AveragedModel`s of it.
            Those of other shapes, such as a teacher, are left alone.
        module: after the change.
        change: what became of its parameters.

    Returns:
        A function that puts the old copies back.

    Cost: one copy of the module for each.
    """
    former = {new: old for old, new in change.renamed.items()}
    now = {former.get(name, name): tensor for name, tensor in _tensors(module).items()}
    shapes = _shapes(now) | {name: parameter.old.shape for name, parameter in change.parameters.items()}
    undo = []
    for holder, key, copy in list(_copies(trainer, module, shapes)):
        fresh, old = _like(module, copy, former), _tensors(copy)
        for name, tensor in _tensors(fresh).items():
            if (value := old.get(former.get(name, name))) is not None:
                tensor.data = _carried(value, change, former.get(name, name))
        undo.append(partial(setattr, holder, key, copy))
        setattr(holder, key, fresh)

    def put_back() -> None:
        for each in undo:
            each()

    return put_back


@contextmanager
def following_structure(trainer: pl.Trainer, module: nn.Module) -> Iterator[None]:
    """Give the copies that callbacks keep the structure that a module gets in here; their values are loaded later."""
    before = _shapes(_tensors(module))
    copies = list(_copies(trainer, module, before))
    yield
    if _shapes(_tensors(module)) != before:
        for holder, key, copy in copies:
            setattr(holder, key, _like(module, copy))


def go_on_averaging(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Let stochastic weight averaging go on in a resumed run.

    Lightning's callback takes up its schedule of learning rates at the start of an epoch, which a run that resumes in
    the middle of one does not see.
    """
    for callback in _callbacks(trainer):
        if not isinstance(callback, StochasticWeightAveraging) or callback._initialized:
            continue
        if 0 <= callback._latest_update_epoch == trainer.current_epoch <= callback.swa_end:
            callback.on_train_epoch_start(trainer, module)


def copies_of(trainer: pl.Trainer, module: nn.Module) -> list[nn.Module]:
    """Return the copies of a module, of the same shapes, that callbacks keep."""
    return [copy for _, _, copy in _copies(trainer, module, _shapes(_tensors(module)))]


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def _copies(trainer: pl.Trainer, module: nn.Module, shapes: Shapes) -> Iterator[tuple[Any, str, nn.Module]]:
    """Yield each copy with the object and the attribute that hold it; `shapes` may name tensors that copies lack."""
    for callback in _callbacks(trainer):
        for key, value in vars(callback).items():
            holder, name, copy = (
                (value, "module", value.module) if isinstance(value, AveragedModel) else (callback, key, value)
            )
            if type(copy) is type(module) and copy is not module and _shapes(_tensors(copy)).items() <= shapes.items():
                yield holder, name, copy


def _like(module: nn.Module, copy: nn.Module, former: Mapping[str, str] | None = None) -> nn.Module:
    """Return a copy of a module in the modes of another copy, on its device, and in its number formats.

    Args:
        module: to copy.
        copy: the other copy.
        former: names that tensors have there, by their names in the module, where those differ.
    """
    fresh, old = private_copy(module), _tensors(copy)
    modes = {name: each.training for name, each in copy.named_modules()}
    for name, each in fresh.named_modules():
        each.training = modes.get(name, copy.training)
    pairs = [(tensor, old.get((former or {}).get(name, name))) for name, tensor in _tensors(fresh).items()]
    formats = {tensor.dtype: other.dtype for tensor, other in pairs if other is not None}
    device = next((tensor.device for tensor in old.values()), torch.device("cpu"))
    for tensor, other in pairs:
        tensor.data = tensor.data.to(device, formats.get(tensor.dtype, tensor.dtype))
        if isinstance(tensor, nn.Parameter) and other is not None:
            tensor.requires_grad_(other.requires_grad)
    return fresh


@torch.no_grad()
def _carried(value: Tensor, change: Change, name: str) -> Tensor:
    if name not in change.parameters:
        return value
    parameter = change[name]
    added = parameter.new - parameter.carry(parameter.old)
    return parameter.carry(value) + added.to(value)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
