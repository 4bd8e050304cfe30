"""Deepen: insert a block that starts as the identity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from growkit import randomness
from growkit.errors import SurgeryError

__all__ = ["Deepen", "Deepened", "ResidualBlock", "insert_block", "running", "set_children"]


@dataclass(frozen=True)
class Deepen:
    """Insert a block after a module; it starts as the identity, so the function is preserved.

    With `residual`, the block computes `x + W2 relu(W1 x)` with `W2 = 0`; without, it is one layer that starts as the
    identity matrix or kernel. In an `nn.Sequential` it joins the sequence under a key of its own, and the keys of
    existing parameters stay as they are. Elsewhere the module moves into a container that stands in its place, and
    `NAME.key` becomes `NAME.0.key`: `Change.renamed` and `Journal.replay` tell. Widths keep their names.

    Args:
        after: qualified name of a module that the forward pass calls and that returns a single tensor.
        kind: "linear" acts on the last axis, "conv1d", "conv2d" and "conv3d" on axis 1 with kernels of 3.
        size: number of features that the module puts out along that axis, at least 1.
        hidden: number of hidden units of a residual block; `size` if None.
        residual: whether the block is a residual branch.

    Source: Chen, Goodfellow and Shlens, Net2Net (2016), arXiv:1511.05641, for the layer without a residual branch.
    """

    after: str
    kind: str
    size: int
    hidden: int | None = None
    residual: bool = True

    def __post_init__(self) -> None:
        sizes = [self.size] if self.hidden is None else [self.size, self.hidden]
        whole = all(isinstance(size, int) and size >= 1 for size in sizes)
        fits = self.residual or self.hidden is None
        if not isinstance(self.after, str) or self.kind not in _LAYERS or not whole or not fits:
            raise SurgeryError(
                f"{self} describes no block",
                seen=f"kind={self.kind!r}, size={self.size}, hidden={self.hidden}, residual={self.residual}",
                expected=f"a kind among {', '.join(_LAYERS)}, sizes of at least 1, `hidden` for residual blocks only",
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


class Deepened(nn.Module):
    """A module and the block inserted after it, in place of the module; other attributes are those of the module.

    Args:
        module: the module.
        block: the block.
    """

    keeps_names = True

    def __init__(self, module: nn.Module, block: nn.Module) -> None:
        super().__init__()
        # Not `add_module`: it would refuse names that are attributes of the module.
        self._modules.update({"0": module, "1": block})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the block makes of the module's output."""
        return self._modules["1"](self._modules["0"](*args, **kwargs))  # type: ignore[misc]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):
                raise  # how to copy or to pickle the module says nothing about this one
            return getattr(super().__getattr__("0"), name)


def identity_layer(kind: str, size: int) -> nn.Module:
    """Return a layer that computes the identity."""
    layer, options = _LAYERS[kind]
    made = layer(size, size, **options)
    weight, bias = made.get_parameter("weight"), made.get_parameter("bias")
    if isinstance(made, nn.Linear):
        nn.init.eye_(weight)
    else:
        nn.init.dirac_(weight)
    nn.init.zeros_(bias)
    return made


class Insertion(NamedTuple):
    """Where a block went.

    Attributes:
        parent: the module whose children changed.
        children: its former children, to roll back.
        name: qualified name of the block.
        block: the block.
        renamed: former prefix and new prefix of the names of existing tensors, or None if they stay.
    """

    parent: nn.Module
    children: list[tuple[str, nn.Module | None]]
    name: str
    block: nn.Module
    renamed: tuple[str, str] | None


def insert_block(model: nn.Module, edit: Deepen, seed: int) -> Insertion:
    """Insert the block.

    Raises:
        SurgeryError: there is no such module.
    """
    path, _, key = edit.after.rpartition(".")
    modules = dict(model.named_modules())
    parent, module = modules.get(path), modules.get(edit.after)
    if parent is None or module is None or module is model:
        raise SurgeryError(
            f"cannot insert a block after {edit.after!r}",
            seen="the model itself" if module is model else "no such module",
            expected="a module inside the model",
            advice="name one as in `model.named_modules()`",
        )
    block = _block(edit, module, model, seed)
    before = list(parent._modules.items())
    if isinstance(parent, nn.Sequential):
        new_key = key + "_deeper"
        while new_key in parent._modules:
            new_key += "_deeper"
        pairs = [pair for item in before for pair in ((item, (new_key, block)) if item[0] == key else (item,))]
        set_children(parent, pairs)
        return Insertion(parent, before, f"{path}.{new_key}".lstrip("."), block, None)
    container = Deepened(module, block)
    container.training = module.training
    set_children(parent, [(name, container if name == key else child) for name, child in before])
    return Insertion(parent, before, f"{edit.after}.1", block, (edit.after + ".", f"{edit.after}.0."))


def _block(edit: Deepen, module: nn.Module, model: nn.Module, seed: int) -> nn.Module:
    """Return the block on the device and in the precision of what it follows."""
    with randomness.isolated(seed):
        if edit.residual:
            block: nn.Module = ResidualBlock(edit.kind, edit.size, edit.hidden or edit.size)
        else:
            block = identity_layer(edit.kind, edit.size)
    real = (p for p in (*module.parameters(), *model.parameters()) if p.is_floating_point())
    reference = next(real, None)
    if reference is not None:
        block.to(device=reference.device, dtype=reference.dtype)
    return block.train(module.training)


@contextmanager
def running(blocks: Sequence[tuple[str, nn.Module]]) -> Iterator[None]:
    """Demand that the pass inside runs every inserted block.

    Args:
        blocks: each with the name of the module that it follows.

    Raises:
        SurgeryError: one did not run.
    """
    ran: set[nn.Module] = set()

    def note(block: nn.Module, inputs: Any) -> None:
        ran.add(block)

    hooks = [block.register_forward_pre_hook(note) for _, block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    idle = [after for after, block in blocks if block not in ran]
    if idle:
        raise SurgeryError(
            f"cannot insert a block after {', '.join(map(repr, idle))}",
            seen="a block that did not run on the example",
            expected="a module that the forward pass calls",
            advice="code that uses the parameters of a module does not call it: name the module around it; or give an "
            "example that uses it",
        )


def set_children(parent: nn.Module, children: Sequence[tuple[str, nn.Module | None]]) -> None:
    """Give a module exactly these children, in this order."""
    parent._modules.clear()
    parent._modules.update(children)
