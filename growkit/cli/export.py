"""Write the grown model of a checkpoint as a plain one, which loads without growkit.

An OUTPUT that ends in .pt is a pickled torch.nn.Module: torch.load(OUTPUT, weights_only=False) gives it back wherever
its own class can be imported. One that ends in .pt2 is a program: torch.export.load(OUTPUT).module() runs anywhere,
for batches of any size where the model allows that. Examples: `growkit export runs/mine/checkpoint.ckpt model.pt2` for
a run of a recipe, `growkit export last.ckpt mymodels:small_cnn model.pt` for a model that small_cnn() builds.
"""

from __future__ import annotations

import argparse
import logging
import pickle
import pickletools
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils._pytree import tree_leaves

from growkit import randomness
from growkit.cli.models import current_folder, doubled, imported, is_recipe, line_of, refuse_options
from growkit.cli.parser import build, quiet
from growkit.cli.recipes import find
from growkit.errors import CheckpointError, RecipeError
from growkit.lightning.checkpoint import forget_journal, read, restore
from growkit.plugins import Plugins
from growkit.structure.forward import Example, call, tensors_in
from growkit.surgery.deepen import Deepened, ResidualBlock

__all__ = ["TAKES_OVERRIDES", "add_arguments", "command"]

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint, the model and the output."""
    parser.add_argument("checkpoint", type=Path, help="saved while growkit.Growth was among the callbacks")
    parser.add_argument(
        "model",
        nargs="?",
        help="what was trained: a recipe, or package.module:factory (or :model) to import; "
        "default: recipe.yaml beside the checkpoint",
    )
    parser.add_argument("output", type=Path, help="file to write, which ends in .pt or .pt2")


def command(options: argparse.Namespace) -> None:
    """Build the model, load the checkpoint into it, and write it; what stood there before stays whole until then."""
    output: Path = options.output
    if output.suffix not in _KINDS:
        raise RecipeError(
            f"cannot tell what kind of file {str(output)!r} is to be",
            seen=f"the ending {output.suffix!r}",
            expected="model.pt for a pickled module, or model.pt2 for a program",
            advice="choose one of these endings",
        )
    write, load, how = _KINDS[output.suffix]
    checkpoint = read(options.checkpoint)
    with current_folder(), quiet():
        model = _model(options)
        example = restore(checkpoint, model, options.checkpoint)["example"]
        _detach(model)
        with _replacing(output) as partial, torch.no_grad(), _silent():
            try:
                expected = None if example is None else _run(model, example)
                write(model, example, partial)
                if example is not None:
                    torch.testing.assert_close(_run(load(partial), example), expected, equal_nan=True)
            except Exception as error:  # whatever pickling or exporting a model of somebody else raises
                raise _unfit(model, output, line_of(error)) from error
    print(f"{output} written; load it with: {how.format(str(output))}")


def _model(options: argparse.Namespace) -> nn.Module:
    """Build what was trained, as it was before any growth."""
    name = options.model
    if name is None:
        recipe = options.checkpoint.with_name("recipe.yaml")
        if not recipe.is_file():
            raise RecipeError(
                f"nothing says which model the checkpoint {str(options.checkpoint)!r} is of",
                seen=f"no MODEL, and no {str(recipe)!r}",
                expected="growkit export CHECKPOINT MODEL OUTPUT, or a checkpoint in the folder of its run",
                advice="name the recipe, or package.module:factory",
            )
        name = str(recipe)
    if is_recipe(name):
        model: nn.Module = build(find(name, Plugins()), options.overrides, folder=None).model
        return model
    refuse_options(options.overrides, ())
    return imported(name)


def _detach(model: nn.Module) -> None:
    """Take from a model what it has of growth and of training."""
    forget_journal(model)
    if isinstance(model, pl.LightningModule):
        model.trainer = None
    model.cpu().eval()


def _run(model: nn.Module, example: Example) -> list[Tensor]:
    with randomness.isolated(0):
        return tensors_in(call(model, example))


@contextmanager
def _silent() -> Iterator[None]:
    """Silence what torch prints while it tries to export; what came of it is said in the end."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """Give a file beside the output to write, which takes its place in the end, or leaves no trace."""
    partial = output.with_name(f".partial-{output.name}")
    try:
        partial.touch()
        yield partial
        partial.replace(output)
    except OSError as error:
        raise _unwritable(output, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _unwritable(output: Path, error: OSError) -> RecipeError:
    return RecipeError(
        f"cannot write {str(output)!r}",
        seen=str(error.strerror or error),
        expected="a file in a folder that exists and can be written",
        advice="choose another output",
    )


def _unfit(model: nn.Module, output: Path, seen: str) -> CheckpointError:
    other = ".pt2" if output.suffix == ".pt" else ".pt"
    return CheckpointError(
        f"{type(model).__name__} cannot be exported to {str(output)!r}",
        seen=seen,
        expected=_NEEDS[output.suffix],
        advice=f"try an output that ends in {other}; GROWKIT_TRACEBACK=1 shows where it failed",
    )


# ---------------------------------------------------------------- a pickled module


def _pickle(model: nn.Module, example: Example | None, path: Path) -> None:
    if isinstance(model, pl.LightningModule):
        _leave_training(model)
    torch.save(_plain(model), path)
    with ZipFile(path) as archive:
        (pickled,) = (archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))
    if own := _own_names(pickled):
        raise TypeError(f"objects of {', '.join(own)}")


def _own_names(pickled: bytes) -> list[str]:
    """Return what of growkit a pickle of protocol 2 refers to."""
    found = (str(argument) for code, argument, _ in pickletools.genops(pickled) if code.name == "GLOBAL")
    return sorted({name.replace(" ", ".") for name in found if name.startswith("growkit.")})


def _leave_training(model: pl.LightningModule) -> None:
    """Take from a model what only training needs and no pickle can hold, such as how a recipe makes its optimizer."""
    left = [name for name, value in vars(model).items() if not isinstance(value, dict) and not _is_plain(value)]
    for name in left:
        delattr(model, name)
    if left:
        print(f"left out, as they are not plain: {', '.join(left)} of {type(model).__name__}")


def _is_plain(value: Any) -> bool:
    try:
        return not _own_names(pickle.dumps(value, protocol=2))
    except Exception:  # whatever an object raises
        return False


def _plain(module: nn.Module) -> nn.Module:
    """Return a module with plain modules in place of the blocks that growth inserted."""
    for key, child in module._modules.items():
        if child is not None:
            module._modules[key] = _plain(child)
    if isinstance(module, ResidualBlock):
        traced = torch.fx.symbolic_trace(module)
        for node in traced.graph.nodes:
            node.type = None  # annotations are text here, which cannot be pickled
        traced.recompile()
        return traced
    return nn.Sequential(OrderedDict(module.named_children())) if isinstance(module, Deepened) else module


def _unpickle(path: Path) -> nn.Module:
    module: nn.Module = torch.load(path, weights_only=False)
    return module


# ---------------------------------------------------------------- a program


def _save_program(model: nn.Module, example: Example | None, path: Path) -> None:
    if example is None:
        raise ValueError("a checkpoint from before the first batch, which has no inputs")
    program = _program(model, example)
    program.example_inputs = None  # they are training data
    torch.export.save(program, path)


def _program(model: nn.Module, example: Example) -> ExportedProgram:
    """Export a model, with a batch of any size if that is possible."""
    for inputs in (*doubled(example), example):
        with suppress(Exception):
            return _exported(model, inputs, dynamic=True)
    return _exported(model, example, dynamic=False)


def _exported(model: nn.Module, example: Example, *, dynamic: bool) -> ExportedProgram:
    args, kwargs = ((), dict(example)) if isinstance(example, Mapping) else (tuple(example), {})
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in tree_leaves(example) if dynamic else ():
        if isinstance(tensor, Tensor) and tensor.dim():
            shapes[tensor] = {0: Dim.AUTO}
    spec = shapes.dynamic_shapes(model, args, kwargs)  # type: ignore[no-untyped-call]
    return torch.export.export(model, args, kwargs, dynamic_shapes=spec, strict=False)


def _load_program(path: Path) -> nn.Module:
    return torch.export.load(path).module()


_NEEDS = {
    ".pt": "a model whose classes can be pickled, and come from elsewhere than growkit",
    ".pt2": "a model that torch.export can follow",
}
_KINDS: dict[str, tuple[Callable[..., None], Callable[[Path], nn.Module], str]] = {
    ".pt": (_pickle, _unpickle, "torch.load({!r}, weights_only=False)"),
    ".pt2": (_save_program, _load_program, "torch.export.load({!r}).module()"),
}
