"""Every tensor that a model holds: parameters, buffers, and tensors kept as plain attributes."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["named_tensors", "plain_tensors"]


def plain_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a module keeps as plain attributes, such as a table of frequencies, by attribute.

    What an earlier pass left behind with its graph (a loss, say) is not among them.
    """
    return {key: value for key, value in vars(module).items() if isinstance(value, Tensor) and value.is_leaf}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters, buffers and plain tensor attributes by qualified name, tied ones under the first."""
    named: dict[str, Tensor] = dict([*model.named_parameters(), *model.named_buffers()])
    seen = {id(tensor) for tensor in named.values()}
    for prefix, module in model.named_modules():
        for key, tensor in plain_tensors(module).items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                named[f"{prefix}.{key}".lstrip(".")] = tensor
    return named
