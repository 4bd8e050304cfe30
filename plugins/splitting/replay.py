"""The curvature of what the units of a width run through, from a second run of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from growkit_plugins.splitting.calls import Call
from growkit_plugins.splitting.functions import KINKED, bent
from growkit_plugins.splitting.paths import escaping
from growkit_plugins.splitting.tape import End, Norm, Route, Step, Value

__all__ = ["Curvature", "curvatures_of"]

_LOST = "not all that its units run through could be followed"
_NOT_FINITE = "its units have a derivative in the loss that is not finite"
_CANCELS = "its units are summed without an activation in between, so that halves at plus and minus cancel"


@dataclass(frozen=True, eq=False)
class Curvature:
    """The second derivative of the loss by the outputs `z` of the layers of a width, along their way to the sum.

    Attributes:
        calls: of the layers, on one batch.
        diagonal: the curvature by single entries, in the shape of each call's output; None if it couples entries.
        points: the outputs, if it does.
        slopes: the first derivative by them, part of an autograd graph, if it does.
        norms: right behind the layers.
    """

    calls: Sequence[Call]
    norms: Sequence[Norm]
    diagonal: Sequence[Tensor] | None
    points: Sequence[Tensor] = ()
    slopes: Sequence[Tensor] = ()

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters that move when a unit is split."""
        return list(dict.fromkeys(name for call in self.calls for name in call.slots.values() if name))

    @property
    def nbytes(self) -> int:
        """Memory that is held."""
        held = [leaf for call in self.calls for leaf in (call.output, *call.leaves) if isinstance(leaf, Tensor)]
        return sum(tensor.nbytes for tensor in (*held, *(self.diagonal or ()), *self.points))

    def multiply(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the products of the splitting matrices of all units with one vector each.

        Args:
            weights: the vectors, in the shape of the parameters that hold the units.

        Returns:
            The products, likewise.
        """
        dtype = next(iter(weights.values())).dtype
        with torch.enable_grad():
            weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
            moves = [call.move(weights, dtype) for call in self.calls]
            turned = self._turn([move.detach() for move in moves])
            products = _derivatives(moves, list(weights.values()), turned)
        return dict(zip(weights, products, strict=True))

    def moments(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return by how much running statistics change as weights move.

        The mean moves as that of this batch's outputs, the variance in proportion to theirs.

        Args:
            weights: how far they move, see `multiply`.

        Returns:
            The changes, by the names of the buffers.
        """
        changes: dict[str, list[Tensor]] = {}
        for norm in self.norms:
            move = norm.call.move(weights, next(iter(weights.values())).dtype).transpose(0, 1).flatten(1)
            output = norm.call.output.to(move.dtype).transpose(0, 1).flatten(1)
            before = output.var(1, correction=0).clamp(min=torch.finfo(move.dtype).tiny)
            ratio = (output + move).var(1, correction=0) / before
            changes.setdefault(norm.mean, []).append(move.mean(1))
            changes.setdefault(norm.var, []).append((ratio - 1) * norm.value.to(move.dtype))
        return {name: torch.stack(of_calls).mean(0) for name, of_calls in changes.items()}

    def _turn(self, moves: Sequence[Tensor]) -> list[Tensor]:
        """Return how the slopes change as the outputs move."""
        if self.diagonal is not None:
            return [entries * move for entries, move in zip(self.diagonal, moves, strict=True)]
        return _derivatives(self.slopes, self.points, moves)


def curvatures_of(routes: Mapping[str, Route], loss: Tensor, *, beta: float) -> dict[str, Curvature | str]:
    """Return the curvature of every width, or the reason why its units are no neurons.

    Args:
        routes: what a tape noted while the loss was computed.
        loss: a scalar.
        beta: see `bent`.

    Cost: a backward pass, and a second run of what lies between layers and sums.
    """
    sought: dict[int, Any] = {}
    for route in routes.values():
        sought |= {id(end): end.tensor for end in _ends(route) if end.tensor.requires_grad}
        sought |= {id(call): call.edge for call in route.calls if call.slots}
    gradients: dict[int, Tensor] = {}
    if sought and loss.requires_grad:
        answers = torch.autograd.grad(loss, list(sought.values()), allow_unused=True)
        gradients = {key: answer for key, answer in zip(sought, answers, strict=True) if answer is not None}
    lost = escaping(routes, loss)
    return {
        width: _LOST if width in lost else _of_width(width, route, gradients, beta) for width, route in routes.items()
    }


def _of_width(width: str, route: Route, gradients: Mapping[int, Tensor], beta: float) -> Curvature | str:
    calls = [call for call in route.calls if call.slots and id(call) in gradients]
    if reason := _no_neurons(route, calls):
        return reason
    dtype = torch.promote_types(calls[0].output.dtype, torch.float32)
    points = [call.output.to(dtype).requires_grad_() for call in calls]
    ends = [end for end in _ends(route) if id(end) in gradients]
    try:
        with torch.enable_grad():
            values = _replay(
                width, route, dict(zip(map(id, calls), points, strict=True)), [e.value for e in ends], beta
            )
            slopes = _derivatives(values, points, [gradients[id(end)].to(dtype) for end in ends], create_graph=True)
            if not any(slope.requires_grad for slope in slopes):
                return _CANCELS
        diagonal = (
            _derivatives(slopes, points, [slope.new_ones(()).expand_as(slope) for slope in slopes])
            if route.diagonal
            else None
        )
    except RuntimeError as error:
        return f"what its units run through has no second derivative here ({error})"
    if not all(tensor.sum().isfinite() for tensor in (*slopes, *(diagonal or ()))):
        return _NOT_FINITE
    if not (_close(values, [end.tensor for end in ends]) and _close(slopes, [gradients[id(call)] for call in calls])):
        return _LOST
    norms = [norm for norm in route.norms if norm.call in calls]
    return Curvature(calls, norms, diagonal) if route.diagonal else Curvature(calls, norms, None, points, slopes)


def _ends(route: Route) -> list[End]:
    """Return where the way that matters ends: what is linear from some point on adds no curvature."""
    return route.turns if route.diagonal else route.ends


def _no_neurons(route: Route, calls: Sequence[Call]) -> str:
    if route.trouble:
        return route.trouble
    if not route.calls:
        return "none of the layers that make its units was called"
    if not any(call.slots for call in route.calls):
        return "no linear layer or convolution with weights to train makes its units where gradients are recorded"
    return "" if calls else "it has no part in the loss"


def _replay(
    width: str, route: Route, points: Mapping[int, Tensor], wanted: Sequence[Value], beta: float
) -> list[Tensor]:
    """Run the steps of a width again, from other outputs of its layers on, and return the values that are wanted."""
    dtype = next(iter(points.values())).dtype
    results: dict[int, list[Tensor]] = {}

    def at(leaf: Any) -> Any:
        if isinstance(leaf, Value) and width in leaf.sources:
            source = leaf.sources[width]
            if isinstance(source.maker, Call):
                return points.get(id(source.maker), source.maker.output.to(dtype))
            return results[id(source.maker)][source.place]
        tensor = leaf.tensor if isinstance(leaf, Value) else leaf
        return tensor.to(dtype) if isinstance(tensor, Tensor) and tensor.is_floating_point() else tensor

    for step in route.steps:
        if route.diagonal and width not in step.entrywise:
            continue
        out = _run(step, *tree_map(at, step.arguments), beta=beta)
        results[id(step)] = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    return [at(value) for value in wanted]


def _run(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any], *, beta: float) -> Any:
    def fresh(leaf: Any) -> Any:
        return leaf.clone() if isinstance(leaf, Tensor) and step.in_place else leaf

    if step.function is F.batch_norm:
        return _affine(*args, **kwargs)
    if step.function not in KINKED:
        return step.function(*tree_map(fresh, args), **tree_map(fresh, kwargs))
    (x, *rest), others = (
        (args, kwargs) if args else ((kwargs["input"],), {k: v for k, v in kwargs.items() if k != "input"})
    )
    return bent(lambda z: step.function(fresh(z), *rest, **others), x, beta=beta)


def _affine(  # noqa: PLR0913 (the arguments of the function)
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Do what a batch norm does in evaluation mode, in operations whose second derivative costs nothing."""
    scale = (running_var + eps).rsqrt() * (1 if weight is None else weight)
    shift = -running_mean * scale + (0 if bias is None else bias)
    shape = [1, -1] + [1] * (input.dim() - 2)
    return torch.addcmul(shift.view(shape), input, scale.view(shape))


def _derivatives(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], arriving: Sequence[Tensor], *, create_graph: bool = False
) -> list[Tensor]:
    """Return the derivatives by the inputs, 0 where there are none; the graph of the outputs stays."""
    pairs = [(out, gradient) for out, gradient in zip(outputs, arriving, strict=True) if out.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if pairs:
        ends, gradients = zip(*pairs, strict=True)
        found = torch.autograd.grad(
            ends, inputs, gradients, retain_graph=True, create_graph=create_graph, allow_unused=True
        )
    return [torch.zeros_like(x) if each is None else each for x, each in zip(inputs, found, strict=True)]


def _close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Say whether tensors agree on every eighth sample, as far as the precision of `theirs` goes."""
    for mine, other in zip(ours, theirs, strict=True):
        if mine.shape != other.shape:
            return False
        tolerance = torch.finfo(other.dtype).eps ** 0.4
        mine, other = (tensor[::8] if tensor.dim() else tensor for tensor in (mine, other))
        mine, other = mine.detach(), other.detach().to(mine.dtype)
        if bool((mine - other).norm() > tolerance * other.norm()):
            return False
    return True
