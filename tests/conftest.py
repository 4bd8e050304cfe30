"""Fixed seeds for every test, and a witness that a model was left exactly as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from torch import Tensor, nn
from torch.optim import Optimizer

settings.register_profile(
    "growkit",
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("growkit")
torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other


def pytest_collectstart(collector: pytest.Collector) -> None:
    """What a module draws while it is imported does not depend on those before it."""
    seed()


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    seed()


@pytest.fixture
def no_data_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No folder with data sets is named, the cache is an empty folder `cache`, and there is no network."""
    import requests

    def no_network(*_arguments: object, **_options: object) -> None:
        raise requests.ConnectionError("no route to host")

    monkeypatch.delenv("GROWKIT_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache")
    monkeypatch.setattr(requests, "get", no_network)


def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def of_tensor(tensor: Tensor | None) -> Any:
    """Identity, layout, values and attachments of a tensor."""
    if tensor is None:
        return None
    values = tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64).numpy().tobytes()
    attributes = {key: id(value) for key, value in vars(tensor).items()}
    hooks = [None if table is None else list(table.items()) for table in (tensor._backward_hooks,)]
    return id(tensor), tensor.dtype, tensor.shape, tensor.stride(), values, attributes, hooks, tensor.requires_grad


def of_value(value: Any) -> Any:
    if isinstance(value, Tensor):
        return of_tensor(value)
    if isinstance(value, dict):
        return id(value), [(key, of_value(entry)) for key, entry in value.items()]
    plain = value is None or isinstance(value, (bool, int, float, str, tuple, torch.dtype))
    return value if plain else id(value)


def of_model(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules(remove_duplicate=False):
        for key, value in vars(module).items():
            yield f"{name} {key}", of_value(value)
        for key, parameter in module._parameters.items():
            yield f"{name}.{key}.grad", None if parameter is None else of_tensor(parameter.grad)


def of_optimizer(optimizer: Optimizer) -> Iterator[tuple[str, Any]]:
    for index, group in enumerate(optimizer.param_groups):
        yield f"group {index}", (id(group), id(group["params"]), [id(p) for p in group["params"]])
        yield f"settings {index}", [(key, of_value(value)) for key, value in group.items() if key != "params"]
    yield "state", {id(parameter): of_value(state) for parameter, state in optimizer.state.items()}


def of_generators() -> Any:
    algorithm, keys, *rest = np.random.get_state()
    return random.getstate(), algorithm, keys.tobytes(), rest, torch.get_rng_state().numpy().tobytes()


def picture(model: nn.Module, optimizers: tuple[Optimizer, ...]) -> dict[str, Any]:
    entries = dict(of_model(model))
    for number, optimizer in enumerate(optimizers):
        entries.update((f"optimizer {number} {key}", value) for key, value in of_optimizer(optimizer))
    return {**entries, "random numbers": of_generators()}


@pytest.fixture
def unchanged() -> Callable[..., AbstractContextManager[None]]:
    """A context manager: on leaving, the model and the optimizers must be the same objects with the same content."""

    @contextmanager
    def witness(model: nn.Module, *optimizers: Optimizer) -> Iterator[None]:
        kept = [list(model.parameters()), list(model.buffers()), [p.grad for p in model.parameters()]]
        before = picture(model, optimizers)
        yield
        after = picture(model, optimizers)
        assert after.keys() == before.keys()
        assert [key for key in before if after[key] != before[key]] == []
        del kept

    return witness
