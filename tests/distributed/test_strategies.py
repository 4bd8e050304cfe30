"""Which strategies are followed and which are refused; NCCL where there is a GPU."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from growth.stubs import has_four_parts
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from scenarios import Net, data, trainer_of
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.utils.data import DataLoader

import growkit
from growkit.lightning.parallel import refuse_sharding, refuse_strategy
from growkit_plugins.baselines import Net2Net


@pytest.mark.parametrize("kind", [FSDPStrategy, ModelParallelStrategy])
def test_sharded_parameters_are_refused_with_the_reason(kind):
    trainer = trainer_of(1)
    trainer._accelerator_connector.strategy = kind()
    with pytest.raises(growkit.GrowkitError, match=rf"cannot follow the strategy {kind.__name__}") as caught:
        refuse_strategy(trainer)
    assert has_four_parts(caught.value)
    assert "goes on with the old shards" in caught.value.seen


@pytest.mark.parametrize("strategy", [SingleDeviceStrategy(), DDPStrategy()])
def test_whole_parameters_are_not(strategy):
    trainer = trainer_of(1)
    trainer._accelerator_connector.strategy = strategy
    refuse_strategy(trainer)


def test_an_optimizer_with_state_in_pieces_is_refused():
    class ZeroRedundancyOptimizer(torch.optim.SGD):
        """Importing the real one compiles code."""

    trainer = trainer_of(1)
    trainer.strategy._optimizers = [ZeroRedundancyOptimizer(Net().parameters(), lr=0.1)]
    with pytest.raises(growkit.GrowkitError, match="cannot follow the optimizer ZeroRedundancyOptimizer") as caught:
        refuse_sharding(trainer)
    assert has_four_parts(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, for NCCL")
@pytest.mark.filterwarnings("ignore")
def test_nccl_with_a_communication_hook():
    hooks = []

    class Looks(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            hooks.append([hook for hook, _ in trainer.model._comm_hooks])

    module, growth = Net(dtype=torch.float32), growkit.Growth([Net2Net(0.3)], when=growkit.every(steps=3))
    trainer = pl.Trainer(
        accelerator="gpu",
        devices=1,
        strategy=DDPStrategy(ddp_comm_hook=fp16_compress_hook),
        callbacks=[growth, Looks()],
        max_steps=12,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, DataLoader(data(64, torch.float32), batch_size=8))
    assert len(growth.events) == 3
    assert hooks == [[fp16_compress_hook]] * 12
    assert all(parameter.isfinite().all() for parameter in module.parameters())
