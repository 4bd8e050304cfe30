"""Whether units reach the loss on other ways than those that were seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from torch import Tensor
from torch.autograd.graph import Node

from growkit_plugins.splitting.tape import Route

__all__ = ["escaping"]


def escaping(routes: Mapping[str, Route], loss: Tensor) -> set[str]:
    """Return the widths whose units have a part in the loss past the sums that share them out.

    A penalty on activations is such a part, and so is whatever lies behind a function that the tape cannot see.

    Args:
        routes: what a tape noted while the loss was computed.
        loss: a scalar.

    Cost: one look at every node of the autograd graph, for all widths together.
    """
    bits = {width: 1 << place for place, width in enumerate(routes)}
    all_of_them = (1 << len(routes)) - 1
    sums: dict[Node, int] = defaultdict(int)
    for width, route in routes.items():
        for end in route.ends:
            if end.tensor.grad_fn is not None:
                sums[end.tensor.grad_fn] |= bits[width]
    past: dict[Node, int] = defaultdict(int)  # the widths that have no sum on some way from a node to the loss
    for node in _from_loss(loss):
        onward = past.get(node, all_of_them) & ~sums[node]
        for before, _ in node.next_functions:
            if before is not None:
                past[before] |= onward
    return {
        width
        for width, route in routes.items()
        if any(past.get(call.edge.node, 0) & bits[width] for call in route.calls if call.edge and call.slots)
    }


def _from_loss(loss: Tensor) -> list[Node]:
    """Return the nodes of the autograd graph, each after all those that use what it made."""
    order: list[Node] = []
    seen: set[Node] = set()
    waiting = [(loss.grad_fn, False)]
    while waiting:
        node, done = waiting.pop()
        if node is None or (node in seen and not done):
            continue
        if done:
            order.append(node)
            continue
        seen.add(node)
        waiting.append((node, True))
        waiting += [(before, False) for before, _ in node.next_functions]
    return order[::-1]
