"""Training batches for statistics, drawn beside the training loop without disturbing it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from growkit import randomness
from growkit.errors import StructureError
from growkit.structure.forward import Example

__all__ = ["example_of", "fitted", "statistics_batches", "to_device"]

_SAMPLES = 2  # a batch of one cannot be told from an axis that is broadcast


def statistics_batches(trainer: pl.Trainer, current: Any, seed: int, count: int) -> Iterator[Any]:
    """Yield `count` training batches, as training would see them.

    A loader of its own draws them, so that the sampler, the workers and the random state of the training loader stay
    as they are, and a resumed run sees the same batches. Where the training data cannot be indexed (an iterable data
    set, a loader that is no `DataLoader`), the current batch is all there is.

    Args:
        trainer: in the middle of a fit.
        current: the training batch at hand, on its device.
        seed: of the draw.
        count: how many.
    """
    loader = trainer.train_dataloader
    if count == 1 or not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        yield copy.deepcopy(current)  # a training step may work in place
        return
    with randomness.isolated(seed):
        sampler = _twin(loader.sampler if loader.batch_sampler is None else loader.batch_sampler, seed)
        drawn = list(islice(sampler, count))
    if loader.batch_sampler is None:  # the data set makes whole batches
        own: DataLoader[Any] = DataLoader(loader.dataset, batch_size=None, sampler=drawn, collate_fn=loader.collate_fn)
    else:
        own = DataLoader(loader.dataset, batch_sampler=drawn, collate_fn=loader.collate_fn)
    for batch in own:
        converted = trainer.precision_plugin.convert_input(batch)
        prepared = trainer.lightning_module._on_before_batch_transfer(converted, dataloader_idx=0)
        yield trainer.strategy.batch_to_device(prepared, dataloader_idx=0)


def _twin(sampler: Any, seed: int) -> Any:
    """Return a sampler that draws like another, with generators of its own."""
    memo: dict[int, Any] = {}
    inner = [sampler]
    for each in inner:
        for value in vars(each).values():
            if isinstance(value, Dataset):
                memo[id(value)] = value
            elif isinstance(value, torch.Generator):
                memo[id(value)] = torch.Generator().manual_seed(seed)
            elif isinstance(value, Sampler):
                inner.append(value)
    return copy.deepcopy(sampler, memo)


def example_of(module: pl.LightningModule, batch: Any) -> Example:
    """Take inputs for the trace and the probe: the module's `example_input_array`, else the first entries of a batch.

    Raises:
        StructureError: it cannot be told what `forward` takes.
    """
    given = getattr(module, "example_input_array", None)
    if given is not None:
        return given if isinstance(given, (tuple, Mapping)) else (given,)
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(inputs, Tensor):
        raise StructureError(
            f"cannot tell which inputs {type(module).__name__}.forward takes",
            seen=f"training batches of type {type(batch).__name__}",
            expected="a tensor, or a tuple or list that starts with one",
            advice="pass Growth(example=function of a batch), or set example_input_array on the module",
        )
    return (inputs[:_SAMPLES],)


def to_device(example: Example, device: torch.device) -> Example:
    """Return a copy of the example with every tensor on a device."""
    moved: Example = tree_map(lambda x: x.detach().to(device, copy=True) if isinstance(x, Tensor) else x, example)
    return moved


def fitted(example: Example, module: nn.Module) -> Example:
    """Return a copy of the example on the device of a module, and in its number format if it has one only."""
    parameters = list(module.parameters())
    moved = to_device(example, parameters[0].device if parameters else torch.device("cpu"))
    formats = {parameter.dtype for parameter in parameters if parameter.is_floating_point()}
    if len(formats) != 1:
        return moved
    (kind,) = formats
    converted: Example = tree_map(lambda x: x.to(kind) if isinstance(x, Tensor) and x.is_floating_point() else x, moved)
    return converted
