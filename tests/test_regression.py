"""The toy problem of radial basis functions."""

from __future__ import annotations

import math

import pytest
import pytorch_lightning as pl
import torch
from broken_off import assert_equal, batches_of_two_fits

import growkit
from growkit_plugins.regression import RBFNetwork, RBFTeacher, Regressor
from growkit_plugins.splitting import Splitting


class TestNetwork:
    def test_it_is_the_sum_it_says(self):
        model = RBFNetwork(2)
        values = {"hidden.weight": [[1.0], [-2.0]], "hidden.bias": [0.5, 1.0], "output.weight": [[3.0, -1.0]]}
        model.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
        for x in (-1.0, 0.0, 0.7):
            want = 3 * math.exp(-((x + 0.5) ** 2) / 2) - math.exp(-((1 - 2 * x) ** 2) / 2)
            assert model(torch.tensor([[x]])).item() == pytest.approx(want, rel=1e-5)

    def test_several_inputs(self):
        model = RBFNetwork(4, inputs=3)
        assert model(torch.zeros(5, 3)).shape == (5, 1)
        assert sum(p.numel() for p in model.parameters()) == 4 * 3 + 4 + 4

    def test_it_grows(self):
        model, x = RBFNetwork(3).double(), torch.linspace(-5, 5, 20).double()[:, None]
        before = model(x)
        growkit.apply(model, growkit.Widen("hidden", copies=[1]), example=(x,))
        assert model.hidden.out_features == 4
        torch.testing.assert_close(model(x), before)


class TestTeacher:
    def test_points_and_values(self):
        data = RBFTeacher(points=2000, batches=3)
        train, val = data.train_dataloader(), data.val_dataloader()
        assert (len(train), len(val)) == (3, 1)
        points, values = next(iter(train))
        assert points.shape == values.shape == (2000, 1)
        assert points.dtype == values.dtype == torch.float32
        for x, _ in (next(iter(train)), next(iter(val))):
            assert -5 <= x.min() < -4.95
            assert 4.95 < x.max() <= 5
            assert abs(x.mean()) < 0.2
            assert abs(x.var() - 100 / 12) < 0.4
        assert len(torch.cat([x for x, _ in (next(iter(train)), next(iter(val)))]).unique()) > 3990

    def test_every_batch_holds_every_point_with_its_value(self):
        data = RBFTeacher(points=50, batches=4)
        torch.manual_seed(0)
        batches = [
            sorted(zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)) for x, y in data.train_dataloader()
        ]
        assert len(batches) == 4
        assert all(batch == batches[0] for batch in batches)

    def test_the_seed_chooses_teacher_and_points_and_nothing_else_does(self):
        values = []
        for outer, seed in ((0, 5), (1, 5), (0, 6)):
            torch.manual_seed(outer)
            values.append(next(iter(RBFTeacher(seed=seed).val_dataloader())))
        assert all(torch.equal(a, b) for a, b in zip(values[0], values[1], strict=True))
        assert not torch.equal(values[0][0], values[2][0])

    def test_parameters_have_the_variance_of_the_paper(self):
        # E f(x)^2 = 15 E w^2 E exp(-z^2), with z ~ N(0, 3 (x^2 + 1)) and so E exp(-z^2) = (1 + 6 (x^2 + 1))^(-1/2).
        squares = torch.stack([next(iter(RBFTeacher(seed=s).val_dataloader()))[1].square().mean() for s in range(400)])
        x = torch.linspace(-5, 5, 1001)
        want = (45 * (1 + 6 * (x.square() + 1)).rsqrt()).mean()
        assert squares.mean().item() == pytest.approx(want.item(), rel=0.1)

    def test_a_resumed_epoch_goes_on_with_the_same_batches(self, tmp_path):
        whole, parts = batches_of_two_fits(lambda: RBFTeacher(points=20, batches=4), tmp_path, stop=3)
        assert_equal(whole, parts)


def test_regressor_logs_the_mean_squared_error_and_the_network_grows(tmp_path):
    torch.manual_seed(0)
    task = Regressor(RBFNetwork(3), lambda parameters: torch.optim.Adam(parameters, lr=0.03))
    data = RBFTeacher(points=60, batches=50)
    growth = growkit.Growth(plugins=[Splitting(fraction=0.1, step=0.1)], when=growkit.every(epochs=4))
    trainer = pl.Trainer(
        max_epochs=12,
        callbacks=[growth],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    [before] = trainer.validate(task, data, verbose=False)
    x, y = next(iter(data.val_dataloader()))
    trainer.fit(task, data)
    after = trainer.callback_metrics
    assert before["val_loss"] > after["val_loss"]
    with torch.no_grad():
        assert after["val_loss"].item() == pytest.approx((task(x) - y).square().mean().item(), rel=1e-4)
    assert after["train_loss"] < before["val_loss"]
    assert task.network.hidden.out_features == 5, "one neuron at each of two events"
