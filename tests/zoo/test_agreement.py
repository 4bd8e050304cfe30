"""Two independent witnesses agree with growkit on which positions of which parameters are one unit.

The label oracle follows numbers, not symbols, through one run of a model (see `oracle.labels`). Torch-Pruning, a
library, follows the graph of gradients through modules.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping

import pytest
from oracle.labels import Labelling, labels
from torch import nn

import growkit
from zoo.architecture import Architecture
from zoo.catalogue import ARCHITECTURES, BY_NAME
from zoo.check import inputs_of, model_of, structure_of

Places = dict[tuple[str, int], set[int]]  # positions along axes of parameters and buffers


def units_of(width: growkit.Width) -> Iterator[Places]:
    """Where each unit of a width lies."""
    found: list[Places] = [defaultdict(set) for _ in range(width.size)]
    for piece in (*width.incoming, *width.outgoing):
        for unit, positions in enumerate(piece.index.tolist()):
            found[unit][piece.parameter, piece.axis].update(positions)
    yield from map(dict, found)


# ------------------------------------------------------------------ the label oracle

# Where growkit knows that sizes are one which no tensor compares, since the code computes both from one number: the
# head size of keys and that of values, the heads of several layers, the parts that a tensor is cut into.
# fmt: off
ONE_NUMBER = {
    "res2net", "shufflenet v2", "vit", "vit with scores by hand", "vit einops", "torch encoder over patches",
    "torch encoder over patches with norm first", "swin", "coatnet", "maxvit", "cvt", "perceiver", "clip",
    "diffusion transformer", "masked autoencoder", "nanogpt", "nanogpt of one size", "mingpt", "llama",
    "llama, complex rotation", "bert", "nn.Transformer", "nn.TransformerEncoder", "nn.TransformerEncoder, padded",
    "nn.TransformerDecoder", "nn.MultiheadAttention", "transformer-xl", "linformer", "conformer", "albert",
    "fusion by cross-attention",
}
# fmt: on
# Labels see one way of a branch only, growkit both.
BOTH_WAYS = {"branch on the data"}


def members(known: Labelling, component: int) -> Places:
    return {axis: set(positions) for axis, positions in known.members(component).items()}


def within(inner: Places, outer: Places) -> bool:
    return all(positions <= outer.get(axis, set()) for axis, positions in inner.items())


def united(known: Labelling, unit: Places) -> tuple[Places, int]:
    """What the components that lie wholly within a unit cover together, and their number."""
    met = {component for axis, positions in unit.items() for p in positions for component in known.components(*axis)[p]}
    covered: Places = defaultdict(set)
    inside = [found for found in (members(known, component) for component in met) if within(found, unit)]
    for found in inside:
        for axis, positions in found.items():
            covered[axis] |= positions
    return dict(covered), len(inside)


LIBRARY = {f"hugging face {name}" for name in ("bert", "gpt 2", "llama", "mixtral", "t5", "vit", "resnet", "convnext")}


def tier(architecture: Architecture):
    """The library's models are many and alike: a few of them will do for a start."""
    slow = architecture.name.startswith("hugging face") and architecture.name not in LIBRARY
    return pytest.param(architecture, id=architecture.name, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize("architecture", list(map(tier, ARCHITECTURES)))
def test_units_are_what_labels_show(architecture: Architecture):
    """No unit cuts through what belongs together; and none joins more, but for numbers in the code."""
    model, example = model_of(architecture), inputs_of(architecture)
    structure = structure_of(model, example)
    known = labels(model, **example) if isinstance(example, Mapping) else labels(model, *example)
    assert not known.unknown
    joining = []
    for width in structure.growable:
        counts = set()
        for number, unit in enumerate(units_of(width)):
            named = {known.own(axis): positions for axis, positions in unit.items() if known.own(axis)}
            covered, count = united(known, named)
            assert covered == named, f"unit {number} of {width.name}"
            counts.add(count)
        assert len(counts) == 1, f"units of {width.name} differ in kind"
        joining += [width.name] * (counts != {1})
    if not architecture.name.startswith("hugging face"):
        assert bool(joining) == (architecture.name in ONE_NUMBER | BOTH_WAYS), joining


# ------------------------------------------------------------------ Torch-Pruning

LAYERS = (nn.Conv2d, nn.Linear)
CLASSIFIERS = [
    *("vgg with batch norm", "network in network", "resnet of basic blocks", "resnet of bottlenecks"),
    *("resnet of pre-activations", "wide resnet with dropout", "densenet", "inception", "squeezenet", "ghostnet"),
    *("senet", "repvgg", "mobilenet v1", "mobilenet v2", "mobilenet v3"),
]


def pruned(graph, group, names: Mapping[nn.Module, str]) -> Places:
    """The positions that a group of Torch-Pruning removes."""
    found: Places = defaultdict(set)
    for dependency, positions in group:
        module, out = dependency.target.module, graph.is_out_channel_pruning_fn(dependency.handler)
        if module not in names:
            continue  # an operation without parameters
        into = isinstance(module, LAYERS) and not out and getattr(module, "groups", 1) == 1
        for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if tensor.dim() > int(into):
                found[f"{names[module]}.{key}", int(into)].update(positions)
    return dict(found)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_units_are_the_groups_of_torch_pruning(name: str):
    with warnings.catch_warnings(action="ignore"):
        pruning = pytest.importorskip("torch_pruning")
    model, example = model_of(BY_NAME[name]), inputs_of(BY_NAME[name])
    structure = structure_of(model, example)
    names = {module: name for name, module in model.named_modules()}
    graph = pruning.DependencyGraph().build_dependency(model, example_inputs=example, verbose=False)
    groups = []
    for module in filter(lambda module: isinstance(module, LAYERS), names):
        prune = graph.get_pruner_of_module(module).prune_out_channels
        for unit in range(graph.get_out_channels(module)):
            group = pruned(graph, graph.get_pruning_group(module, prune, idxs=[unit]), names)
            groups += [group] * (group not in groups)
    units = [unit for width in structure.growable for unit in units_of(width)]
    assert all(unit in groups for unit in units)
    classes = [group for group in groups if group not in units]
    assert len(classes) == structure.results[0][1].expr.size, "Torch-Pruning would prune the outputs as well"
