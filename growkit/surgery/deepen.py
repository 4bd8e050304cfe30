"""Deepen: insert a block that starts as the identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from growkit import randomness
from growkit.errors import SurgeryError

__all__ = ["Deepen", "ResidualBlock", "insert_block"]


@dataclass(frozen=True)
class Deepen:
    """Insert a residual block after a module; it starts as the identity, so the function is preserved.

    The block computes `x + W2 relu(W1 x)` with `W2 = 0`. It joins the `nn.Sequential` that holds the module, under
    a key of its own, so that the keys of existing parameters stay as they are.

    Args:
        after: qualified name of a module inside an `nn.Sequential`.
        kind: "linear" acts on the last axis, "conv1d", "conv2d" and "conv3d" on axis 1 with kernels of 3.
        size: number of features that the module puts out along that axis, at least 1.
        hidden: number of hidden units of the block; `size` if None.
    """

    after: str
    kind: str
    size: int
    hidden: int | None = None

    def __post_init__(self) -> None:
        sizes = [self.size] if self.hidden is None else [self.size, self.hidden]
        whole = all(isinstance(size, int) and size >= 1 for size in sizes)
        if not isinstance(self.after, str) or self.kind not in _LAYERS or not whole:
            raise SurgeryError(
                f"{self} describes no block",
                seen=f"kind={self.kind!r}, size={self.size}, hidden={self.hidden}",
                expected=f"a kind among {', '.join(_LAYERS)} and sizes of at least 1",
                advice="`size` is the number of features of the module's output",
            )


class ResidualBlock(nn.Module):
    """`x + outgoing(relu(incoming(x)))`, the identity as long as `outgoing` is zero.

    Args:
        kind: one of "linear", "conv1d", "conv2d", "conv3d".
        size: features of the input and the output.
        hidden: units in between.

    Shape: any that the layers of `kind` take; the output has the shape of the input.
    """

    def __init__(self, kind: str, size: int, hidden: int) -> None:
        super().__init__()
        layer, options = _LAYERS[kind]
        self.incoming = layer(size, hidden, **options)
        self.outgoing = layer(hidden, size, **options)
        for parameter in self.outgoing.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input plus the branch."""
        return x + self.outgoing(self.incoming(x).relu())  # type: ignore[no-any-return]


_CONVOLUTION = {"kernel_size": 3, "padding": 1}
_LAYERS: dict[str, tuple[type[nn.Module], dict[str, int]]] = {
    "linear": (nn.Linear, {}),
    "conv1d": (nn.Conv1d, _CONVOLUTION),
    "conv2d": (nn.Conv2d, _CONVOLUTION),
    "conv3d": (nn.Conv3d, _CONVOLUTION),
}


def insert_block(model: nn.Module, edit: Deepen, seed: int) -> tuple[nn.Sequential, list[tuple[str, nn.Module]], str]:
    """Insert the block; return the sequence, its former children (to roll back) and the name of the block.

    Raises:
        SurgeryError: there is no such module, or it does not stand in an `nn.Sequential`.
    """
    path, _, key = edit.after.rpartition(".")
    modules = dict(model.named_modules())
    parent, module = modules.get(path), modules.get(edit.after)
    if not isinstance(parent, nn.Sequential) or module is None or module is model:
        raise SurgeryError(
            f"cannot insert a block after {edit.after!r}",
            seen="no such module" if module is None or module is model else f"it stands in a {type(parent).__name__}",
            expected="a module inside an nn.Sequential",
            advice="name a child of an nn.Sequential as in `model.named_modules()`",
        )
    before = list(parent._modules.items())
    new_key = key + "_deeper"
    while new_key in parent._modules:
        new_key += "_deeper"
    with randomness.isolated(seed):
        block = ResidualBlock(edit.kind, edit.size, edit.hidden or edit.size)
    reference = next(module.parameters(), next(model.parameters(), None))
    if reference is not None:
        block.to(device=reference.device, dtype=reference.dtype)
    block.train(module.training)
    set_children(
        parent,
        [pair for item in before for pair in ((item, (new_key, block)) if item[0] == key else (item,))],
    )
    return (
        parent,
        [(name, child) for name, child in before if child is not None],
        f"{path}.{new_key}".lstrip("."),
    )


def set_children(parent: nn.Sequential, children: Sequence[tuple[str, nn.Module | None]]) -> None:
    """Give a sequence exactly these children, in this order."""
    parent._modules.clear()
    parent._modules.update(children)  # type: ignore[arg-type]
