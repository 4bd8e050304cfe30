"""What must hold for every width of every architecture."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import growkit
from growkit.structure.forward import tensors_in
from zoo.architecture import Architecture, Inputs

__all__ = [
    "Part",
    "attributes",
    "call",
    "doubled",
    "edits_of",
    "inputs_of",
    "loaded",
    "model_of",
    "moved",
    "names_of_tensors",
    "probes_of",
    "rebuilt",
    "shrunk",
    "step",
    "structure_of",
    "tolerance",
    "wrong_sizes",
]


# ------------------------------------------------------------------ models and inputs


class Part(nn.Module):
    """A network as part of a larger one, as in a training script; its configuration, if it has one, stays as it is."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.part(*args, **kwargs)


def model_of(architecture: Architecture) -> nn.Module:
    """The network in float64 and evaluation mode, every tensor away from its trivial start."""
    torch.manual_seed(0)
    model = architecture.build().double().eval()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif isinstance(tensor, nn.Parameter) or name.endswith("running_mean"):
                tensor.add_(0.1 * torch.randn_like(tensor))
    return model


def doubled(value: Any) -> Any:
    """Inputs with their real tensors in float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: doubled(child) for key, child in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(doubled(child) for child in value))
    if isinstance(value, (list, tuple)):
        return type(value)(doubled(child) for child in value)
    if hasattr(value, "__dict__"):
        value = copy.copy(value)
        vars(value).update({key: doubled(child) for key, child in vars(value).items()})
    return value


def inputs_of(architecture: Architecture, *, batch: int | None = None, longer: bool = False) -> Inputs:
    torch.manual_seed(1 + int(longer))
    make = architecture.longer if longer else architecture.inputs
    assert make is not None
    return doubled(make(batch or architecture.batches[0]))


def probes_of(architecture: Architecture) -> list[Inputs]:
    """The example, another batch size, and inputs of another length where the network takes them."""
    probes = [inputs_of(architecture, batch=batch) for batch in architecture.batches]
    return [*probes, inputs_of(architecture, longer=True)] if architecture.longer else probes


# ------------------------------------------------------------------ running


def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    return tensors_in(model(**inputs) if isinstance(inputs, Mapping) else model(*inputs))


def call(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        return [tensor.clone() for tensor in run(model, inputs)]


def step(model: nn.Module, inputs: Inputs, optimizer: Optimizer) -> set[str]:
    """Descend the sum of all outputs once; the parameters that have a finite gradient, by name."""
    optimizer.zero_grad()
    outputs = [tensor for tensor in run(model, inputs) if tensor.requires_grad]
    sum(tensor[tensor.isfinite()].abs().sum() for tensor in outputs).backward()
    optimizer.step()
    return {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.isfinite().all())}


def structure_of(model: nn.Module, inputs: Inputs) -> growkit.Structure:
    return growkit.trace(model, **inputs) if isinstance(inputs, Mapping) else growkit.trace(model, *inputs)


def tolerance(structure: growkit.Structure) -> float:
    """How far the outputs may move, relative to their scale: some models compute in float32 whatever they are given."""
    return 1e-5 if structure.dtypes & {torch.float32, torch.complex64} else 1e-9


def moved(before: list[Tensor], after: list[Tensor]) -> float:
    """How far the outputs moved, relative to their scale."""
    if [t.shape for t in before] != [t.shape for t in after]:
        return float("inf")
    distances = [0.0]
    for old, new in zip(before, after, strict=True):
        finite = old[old.isfinite()] if old.is_floating_point() else old
        scale = max(float(finite.abs().max()) if finite.numel() else 0.0, 1e-3)
        same = (old == new) | (old.isnan() & new.isnan()) if old.is_floating_point() else old == new
        if old.numel():
            distances.append(float(torch.where(same, 0.0, (old - new).abs().double()).max()) / scale)
    return max(distances)


# ------------------------------------------------------------------ edits


def edits_of(width: growkit.Width) -> Iterator[tuple[str, growkit.Widen]]:
    everyone = tuple(range(width.size))
    yield "uniform", growkit.Widen(width.name, everyone)
    if not width.uniform:
        yield "uneven", growkit.Widen(width.name, (width.size - 1, 0, 0))


def shrunk(edit: growkit.Widen, size: int) -> growkit.Narrow:
    """What takes back the copies that an edit added to a width of some size."""
    return growkit.Narrow(edit.width, remove=tuple(range(size, size + len(edit.copies))), into=edit.copies)


# ------------------------------------------------------------------ copies of grown models


def loaded(model: nn.Module) -> nn.Module:
    """A copy that has lost its weights and found them again in the state dict."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(model.state_dict())
    return other


def rebuilt(model: nn.Module) -> nn.Module | None:
    """A model built from the configuration that a grown model has, with its weights; None if they do not fit."""
    if not hasattr(model, "config"):
        return None
    other, state = type(model)(copy.deepcopy(model.config)).double().eval(), model.state_dict()
    if {name: t.shape for name, t in other.state_dict().items()} != {name: t.shape for name, t in state.items()}:
        return None
    other.load_state_dict(state)
    return other


# ------------------------------------------------------------------ what a model consists of


def names_of_tensors(model: nn.Module) -> set[frozenset[str]]:
    """For every tensor the places where it stands; several, if it is tied."""
    places: dict[int, set[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        held = {**vars(module), **module._parameters, **module._buffers}
        held.update({f"{key}.{n}": v for key, vs in vars(module).items() if type(vs) is list for n, v in enumerate(vs)})
        for key, value in held.items():
            if isinstance(value, Tensor):
                places.setdefault(id(value), set()).add(f"{name}.{key}")
    return set(map(frozenset, places.values()))


def attributes(model: nn.Module) -> dict[str, Any]:
    """Every number and every sequence of numbers that modules and their configurations hold, with its exact type."""
    found = {}
    for name, module in model.named_modules():
        configurations = {key: value for key, value in vars(module).items() if hasattr(value, "__dict__")}
        for prefix, owner in {"": module, **configurations}.items():
            for key, value in vars(owner).items():
                if isinstance(value, (bool, int, float)):
                    found[f"{name}.{prefix}.{key}"] = type(value), value
                elif isinstance(value, (tuple, list)):
                    found[f"{name}.{prefix}.{key}"] = [(type(n), n) for n in value if isinstance(n, (int, float))]
    return found


def _linear(m: nn.Linear) -> tuple[Any, Any]:
    return [m.out_features, m.in_features], list(m.weight.shape)


def _convolution(m: nn.modules.conv._ConvNd) -> tuple[Any, Any]:
    here = [m.out_channels, m.in_channels // m.groups]
    if m.transposed:
        here = [m.in_channels, m.out_channels // m.groups]
    return [*here, *m.kernel_size], list(m.weight.shape)


def _batch_norm(m: nn.modules.batchnorm._NormBase) -> tuple[Any, Any]:
    tensors = [t for t in (m.weight, m.running_mean) if t is not None]
    return [(m.num_features,)] * len(tensors), [tuple(t.shape) for t in tensors]


def _norm(m: nn.LayerNorm | nn.RMSNorm) -> tuple[Any, Any]:
    return None if m.weight is None else m.normalized_shape, m.weight if m.weight is None else tuple(m.weight.shape)


def _group_norm(m: nn.GroupNorm) -> tuple[Any, Any]:
    return [m.num_channels, 0], [m.num_channels if m.weight is None else len(m.weight), m.num_channels % m.num_groups]


def _attention(m: nn.MultiheadAttention) -> tuple[Any, Any]:
    return [m.embed_dim, m.head_dim * m.num_heads], [m.out_proj.weight.shape[1]] * 2


def _recurrent(m: nn.RNNBase) -> tuple[Any, Any]:
    gates = {"LSTM": 4, "GRU": 3}.get(m.mode, 1)
    into, again = m.weight_ih_l0.shape, m.weight_hh_l0.shape
    return [m.input_size, gates * m.hidden_size, m.proj_size or m.hidden_size], [into[1], into[0], again[1]]


_SIZES: dict[Any, Callable[[Any], tuple[Any, Any]]] = {
    nn.Linear: _linear,
    nn.modules.conv._ConvNd: _convolution,
    nn.modules.batchnorm._NormBase: _batch_norm,
    (nn.LayerNorm, nn.RMSNorm): _norm,
    nn.GroupNorm: _group_norm,
    nn.MultiheadAttention: _attention,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: lambda m: ([m.input_size, m.hidden_size], [m.weight_ih.shape[1], m.weight_hh.shape[1]]),
    nn.Embedding: lambda m: ([m.num_embeddings, m.embedding_dim], list(m.weight.shape)),
    nn.EmbeddingBag: lambda m: ([m.num_embeddings, m.embedding_dim], list(m.weight.shape)),
    nn.Bilinear: lambda m: ([m.out_features, m.in1_features, m.in2_features], list(m.weight.shape)),
    nn.PReLU: lambda m: (m.num_parameters, len(m.weight)),
}


def wrong_sizes(model: nn.Module) -> dict[str, str]:
    """The layers of torch whose attributes do not repeat the sizes of their parameters."""
    found = {}
    for name, module in model.named_modules():
        for kind, sizes in _SIZES.items():
            if isinstance(module, kind):
                said, real = sizes(module)
                if said != real:
                    found[name] = f"{module} has sizes {real}"
    return found
