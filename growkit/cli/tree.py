"""How the widths of a model are shown: as a table, or as a tree of what grows together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar

from rich.box import SIMPLE
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree
from torch import nn

from growkit.errors import RecipeError, suggestion
from growkit.growth.candidate import Cost, price
from growkit.structure import Slice, Structure, Width
from growkit.surgery import Widen

__all__ = ["CHANGES", "Facts", "facts_of", "gather", "show_table", "show_tree"]

# How a width can change, least restricted first, and what that means.
CHANGES = {
    "freely": "units can be copied, added and removed one by one",
    "equally": "only all units together, each copied equally often",
    "copies": "units can be added only as copies of others",
    "outputs": "only new ones, such as classes or words, and on demand: growkit.Widen(..., output=True)",
    "inexactly": "any change alters what the model computes: only with exact=False",
    "frozen": "cannot change",
}

_TERMS = {
    "incoming": "slices that produce the units",
    "outgoing": "slices that consume them",
    "sets": "attributes that follow, beside those of plain layers such as out_features",
    "weight[1] x16": "each unit has 16 positions along axis 1 of the weight",
    "layers.{0..3}": "all of these layers",
}

# Layers whose attributes say nothing that their slices do not say.
_PLAIN = {
    f"torch.nn.modules.{name}" for name in ("linear", "conv", "batchnorm", "instancenorm", "normalization", "sparse")
}

Label = TypeVar("Label", bound=Hashable)


class Attribute(NamedTuple):
    """An attribute of a module or configuration object that follows a width.

    Attributes:
        owner: qualified name of the module or configuration object; "" for the model itself.
        name: of the attribute.
        plain: whether it only repeats what the slices of a plain layer say.
    """

    owner: str
    name: str
    plain: bool


class Facts(NamedTuple):
    """What there is to say about a width.

    Attributes:
        width: the width.
        change: how it can change, a key of `CHANGES`.
        reasons: why not freely.
        cost: what one more unit costs.
        attributes: what else follows when it changes.
    """

    width: Width
    change: str
    reasons: tuple[str, ...]
    cost: Cost
    attributes: tuple[Attribute, ...]


def facts_of(structure: Structure, patterns: Sequence[str] = ()) -> list[Facts]:
    """Collect what there is to say about each width, in forward order.

    Args:
        structure: of the model.
        patterns: names or shell patterns of the widths that are wanted; all of them without one.

    Raises:
        RecipeError: a pattern matches no width.
    """
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in structure.widths):
            raise RecipeError(
                f"no width matches {pattern!r}",
                seen=f"--only {pattern}",
                expected="the name of a width, or a pattern such as 'encoder.*'",
                advice=suggestion(pattern, structure.widths, otherwise="leave --only out to see every width"),
            )
    wanted = [w for w in structure.widths.values() if not patterns or any(_matches(w.name, p) for p in patterns)]
    attributes = _attributes(structure)
    return [
        Facts(
            width,
            *_change(width),
            price(structure, Widen(width.name, copies=(0,))),
            tuple(dict.fromkeys(attribute for symbols, attribute in attributes if width.symbol in symbols)),
        )
        for width in wanted
    ]


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _change(width: Width) -> tuple[str, tuple[str, ...]]:
    if width.frozen:
        kind = "frozen" if width.symbol.frozen else "outputs" if width.symbol.open_ended else "inexactly"
        return kind, (width.frozen,)
    reasons = tuple(reason for reason in (width.uniform, width.copies_only) if reason)
    return "equally" if width.uniform else "copies" if width.copies_only else "freely", reasons


def _attributes(structure: Structure) -> list[tuple[set[Any], Attribute]]:
    """Return the attributes that follow, each with the symbols that it depends on."""
    owners = {id(mirror.owner) for mirror in structure.mirrors}
    names: dict[int, str] = {}
    for name, module in structure.model.named_modules():
        names[id(module)] = name
        for key, value in vars(module).items():
            if id(value) in owners and not isinstance(value, nn.Module):
                names.setdefault(id(value), f"{name}.{key}".lstrip("."))
    return [
        (
            mirror.symbols,
            Attribute(names.get(id(mirror.owner), "?"), mirror.attribute, type(mirror.owner).__module__ in _PLAIN),
        )
        for mirror in structure.mirrors
    ]


# ---------------------------------------------------------------- the table


def show_table(structure: Structure, facts: Sequence[Facts], console: Console) -> None:
    """Print a line for each width, those that can grow first, then the reasons why others cannot."""
    console.print(_summary(structure), soft_wrap=False)
    if not facts:
        return
    table = Table(box=SIMPLE, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("width", overflow="fold")
    for title in ("units", "params/unit", "FLOPs/unit"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("changes", no_wrap=True)
    ordered = _ordered(facts)
    for entry, following in zip(ordered, [*ordered[1:], None], strict=True):
        width, cost = entry.width, entry.cost
        cells = (width.name, f"{width.size:,}", f"{cost.parameters:,}", _short(cost.flops), entry.change)
        last = following is not None and not width.frozen and following.width.frozen is not None
        table.add_row(*map(Text, cells), end_section=last, style="dim" if width.frozen else "")
    console.print(table)
    for change, meaning in CHANGES.items():
        _show_reasons(change, meaning, [entry for entry in facts if entry.change == change], console)
    console.print(Text("--tree shows what grows together, --json everything", style="dim"))


def _ordered(facts: Iterable[Facts]) -> list[Facts]:
    places = list(CHANGES)
    return sorted(facts, key=lambda entry: places.index(entry.change) if entry.width.frozen else -1)


def _show_reasons(change: str, meaning: str, facts: Sequence[Facts], console: Console) -> None:
    reasons: dict[tuple[str, ...], list[tuple[str, None]]] = {}
    help_for: dict[tuple[str, ...], str | None] = {}
    for entry in facts:
        if entry.reasons:
            reasons.setdefault(entry.reasons, []).append((entry.width.name, None))
            help_for[entry.reasons] = entry.width.advice if change != "outputs" else None  # the meaning says it
    if not reasons:
        return
    console.print(Text.assemble((change, "bold"), f": {meaning}"))
    helped: dict[str | None, list[tuple[str, ...]]] = {}
    for why in reasons:
        helped.setdefault(help_for[why], []).append(why)
    for advice, alike in helped.items():
        for why in alike:
            _show(", ".join(name for name, _ in gather(reasons[why])), 2, console)
            for reason in why:
                _show(reason, 4, console, style="dim")
        if advice is not None:
            _show(f"What helps: {advice}.", 2, console, style="italic")
    console.print()


def _show(line: str, indent: int, console: Console, style: str = "") -> None:
    console.print(Padding(Text(line, style=style), (0, 0, 0, indent), expand=False))


def _summary(structure: Structure) -> Text:
    count, growable = len(structure.widths), len(structure.growable)
    return Text.assemble(
        (type(structure.model).__name__, "bold"),
        f": {structure.parameters():,} parameters, {_short(structure.flops())} FLOPs per sample, ",
        f"{count} width{'s' * (count != 1)}, {growable} can grow" if count else "no widths",
    )


def _short(number: float) -> str:
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= unit:
            return f"{number / unit:#.3g}".rstrip(".") + letter
    return f"{number:,.0f}"


# ---------------------------------------------------------------- the tree


def show_tree(structure: Structure, facts: Sequence[Facts], console: Console) -> None:
    """Print each width with the slices that grow together, grouped by module."""
    tree = Tree(_summary(structure), guide_style="dim")
    for entry in _ordered(facts):
        branch = tree.add(_label(entry))
        for title, pieces in (("incoming", entry.width.incoming), ("outgoing", entry.width.outgoing)):
            _add(branch, title, _by_module((piece.parameter, _shown(piece)) for piece in pieces))
        follow = [a for a in entry.attributes if not a.plain]
        _add(branch, "sets", _by_module((f"{a.owner}.{a.name}".lstrip("."), a.name) for a in follow))
    console.print(tree)
    present = {entry.change for entry in facts}
    legend = Table.grid(padding=(0, 2))
    for term, meaning in (_TERMS | CHANGES).items() if facts else ():
        if term in present or term in _TERMS:
            legend.add_row(Text(term, style="dim"), Text(meaning, style="dim"))
    console.print(Padding(legend, (1, 0, 0, 0), expand=False))


def _label(facts: Facts) -> Text:
    width, cost = facts.width, facts.cost
    label = Text.assemble(
        (width.name, "dim" if width.frozen else "bold"), f"  {width.size:,} unit{'s' * (width.size != 1)}"
    )
    label.append(f", {facts.change}\na unit: {cost.parameters:,} parameters, {_short(cost.flops)} FLOPs")
    for reason in facts.reasons:
        label.append(f"\n{facts.change}: {reason}", style="dim")
    return label


def _shown(piece: Slice) -> str:
    leaf = piece.parameter.rpartition(".")[2]
    return f"{leaf}[{piece.axis}]" + (f" x{piece.multiplicity}" if piece.multiplicity > 1 else "")


def _by_module(entries: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Join what belongs to one module; each entry comes with the qualified name of a tensor or attribute."""
    modules: dict[str, list[str]] = {}
    for name, shown in entries:
        modules.setdefault(name.rpartition(".")[0], []).append(shown)
    return gather((module, ", ".join(shown)) for module, shown in modules.items())


def _add(branch: Tree, title: str, entries: Sequence[tuple[str, str]]) -> None:
    if entries:
        added = branch.add(Text(title, style="italic"))
        for module, shown in entries:
            added.add(Text.assemble((module, "cyan"), "  " if module else "", shown))


def gather(entries: Iterable[tuple[str, Label]]) -> list[tuple[str, Label]]:
    """Join entries that say the same of names that differ in one number only: `layers.{0..3}.fc`.

    Args:
        entries: qualified names, each with what is said of it.

    Returns:
        The joined entries, in order of first mention.
    """
    rows = [(tuple(name.split(".")), label) for name, label in entries]
    for place in range(max((len(parts) for parts, _ in rows), default=0)):
        alike: dict[Any, list[str]] = {}
        for parts, label in rows:
            numbered = place < len(parts) and parts[place].isdecimal()
            key = (parts[:place], parts[place + 1 :], label) if numbered else (parts, None, label)
            alike.setdefault(key, []).append(parts[place] if numbered else "")
        rows = [
            (head if tail is None else (*head, _braces(numbers), *tail), label)
            for (head, tail, label), numbers in alike.items()
        ]
    return [(".".join(parts), label) for parts, label in rows]


def _braces(numbers: Sequence[str]) -> str:
    return numbers[0] if len(numbers) == 1 else "{" + ",".join(_runs(sorted(map(int, numbers)))) + "}"


def _runs(numbers: Sequence[int]) -> Iterator[str]:
    start = 0
    for place, number in enumerate(numbers):
        if place + 1 == len(numbers) or numbers[place + 1] != number + 1:
            first = numbers[start]
            yield (
                str(first) if first == number else f"{first},{number}" if number == first + 1 else f"{first}..{number}"
            )
            start = place + 1
