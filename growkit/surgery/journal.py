"""The journal: the ordered list of applied edits. Structure only, never tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from torch import nn

from growkit.errors import SurgeryError, suggestion
from growkit.plugins import Plugins
from growkit.structure import Structure, trace_example
from growkit.structure.forward import Example
from growkit.surgery.apply import Operation
from growkit.surgery.carry import Change
from growkit.surgery.edits import Deepen, Edit, Narrow, Widen

__all__ = ["Entry", "Journal", "edit_from_dict", "edit_to_dict"]

_FORMAT = 1
_DEPTH = 64  # no note needs deeper nesting, and much deeper ones exhaust Python's stack
_KINDS: dict[str, type[Any]] = {"widen": Widen, "narrow": Narrow, "deepen": Deepen}
_FIELDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("width", "after", "kind", "state"), (str,)),
    **dict.fromkeys(("copies", "remove", "into", "shares"), (list,)),
    **dict.fromkeys(("output", "residual"), (bool,)),
    **{"new": (int,), "size": (int,), "hidden": (int, type(None))},
}
# Fields that came later are left out at these values: the journals of most runs stay what an older growkit reads.
_LEFT_OUT: dict[str, Any] = {"state": "carry", "shares": []}


@dataclass(frozen=True)
class Entry:
    """Edits that were applied together.

    Attributes:
        edits: the edits, those of one width joined.
        note: what else is worth knowing: when, by whom, predicted gain, sizes. JSON values only.
    """

    edits: tuple[Edit, ...]
    note: Mapping[str, Any] = field(default_factory=dict)


class Journal:
    """The history of a model's structure: JSON, safe to load, replayable on a fresh model.

    Args:
        entries: what was applied so far, oldest first.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries = list(entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Journal) and self.entries == other.entries

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.entries)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """Every edit, oldest first."""
        return tuple(edit for entry in self.entries for edit in entry.edits)

    def record(self, *edits: Edit, **note: Any) -> None:
        """Append edits that were applied together."""
        self.entries.append(Entry(edits, note))

    def append(self, change: Change, **note: Any) -> None:
        """Record what `growkit.apply` did: the edits, the new shapes, how far the output of the model moved.

        Args:
            change: what was done.
            note: what else is worth knowing, see `Entry`.
        """
        self.record(*change.edits, **{"moved": change.moved, "shapes": _shapes(change), **note})

    def to_json(self) -> str:
        """Return the journal as JSON."""
        entries = [
            {"edits": [edit_to_dict(e) for e in entry.edits], "note": dict(entry.note)} for entry in self.entries
        ]
        return json.dumps({"growkit_journal": _FORMAT, "entries": entries}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Journal:
        """Read a journal.

        Args:
            text: what `to_json` returned.

        Raises:
            SurgeryError: the text is no journal, or one of a later format.
        """
        try:
            data = json.loads(text)
            version = data["growkit_journal"]
            entries = [(list(entry["edits"]), dict(entry["note"])) for entry in data["entries"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _unreadable(f"{type(error).__name__}: {error}") from error
        if type(version) is not int or version != _FORMAT:
            raise _unreadable(f"format {version!r}")
        if _is_deeper(data, _DEPTH):
            raise _unreadable(f"more than {_DEPTH} levels of nesting")
        return cls(Entry(tuple(edit_from_dict(edit) for edit in edits), note) for edits, note in entries)

    def replay(
        self,
        model: nn.Module,
        *,
        example: Example,
        plugins: Plugins | None = None,
        most: int | None = None,
        then: Callable[[], None] | None = None,
    ) -> dict[str, str]:
        """Give a freshly built model the recorded structure; its weights are to be loaded afterwards. Atomic.

        Args:
            model: built as the recorded one was before its first edit.
            example: inputs for the trace, see `growkit.apply`.
            plugins: whose rules and modules take part; the installed ones if None.
            most: number of parameters that the model may have at any time; any number if None.
            then: called when all edits are made; if it raises, they are taken back.

        Returns:
            The new names of parameters and buffers that `Deepen` moved into a container, by their names in the fresh
            model.

        Raises:
            SurgeryError: an edit does not fit the model, gives it other shapes than those recorded, or makes it too
                large. The model is as it was.

        Cost: a trace and two forward passes for each entry, and the copies that the edits need; the values of before
            the first edit are kept until all is done.
        """
        renamed: dict[str, str] = {}
        done: list[Operation] = []
        made: set[int] = set()
        try:
            for entry in self.entries:
                # Traced anew each time: a size of 1 may mean something else than the size before.
                operation = Operation(trace_example(model, example, plugins), example, exact=False)
                _check_size(operation.structure, entry, most)
                change = operation.perform(entry.edits, then=partial(_compare, entry))
                done.append(operation)
                for parameter in change.parameters.values():
                    if id(parameter.old) in made:  # to undo everything, its place is needed, but not its values
                        parameter.old.data = parameter.old.data.new_empty(0)
                    made.add(id(parameter.new))
                moved = dict(change.renamed)
                renamed = {name: moved.pop(now, now) for name, now in renamed.items()} | moved
            if then is not None:
                then()
        except BaseException:
            for operation in reversed(done):
                operation.undo()
            raise
        return renamed


def edit_to_dict(edit: Edit) -> dict[str, Any]:
    """Return an edit as plain data, its kind under "edit"."""
    kind = next(name for name, cls in _KINDS.items() if type(edit) is cls)
    fields = json.loads(json.dumps(asdict(edit)))
    for key, default in _LEFT_OUT.items():
        if fields.get(key) == default:
            del fields[key]
    return {"edit": kind, **fields}


def edit_from_dict(data: Mapping[str, Any]) -> Edit:
    """Rebuild an edit from what `edit_to_dict` made.

    Raises:
        SurgeryError: the kind is unknown or its fields do not fit.
    """
    kind = data.get("edit") if isinstance(data, Mapping) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise SurgeryError(
            "a journal entry names no edit that growkit knows",
            seen=repr(kind),
            expected=f"one of {', '.join(_KINDS)}",
            advice=suggestion(str(kind), _KINDS, otherwise="the journal may come from a newer growkit"),
        )
    fields = {key: value for key, value in data.items() if key != "edit"}
    try:
        if wrong := [key for key, value in fields.items() if not _fits(key, value)]:
            raise TypeError(f"{', '.join(map(repr, wrong))} of the wrong type")
        return _KINDS[kind](**fields)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise SurgeryError(
            f"a journal entry does not describe a {kind!r} edit",
            seen=f"{fields} ({error})",
            expected=f"the fields of growkit.{_KINDS[kind].__name__}",
            advice="the journal was damaged or edited by hand; take it from the checkpoint again",
        ) from error


def _fits(field: str, value: Any) -> bool:
    """Say whether a field of an edit has its type; fields that no edit has are found by its constructor."""
    if field in _FIELDS and type(value) not in _FIELDS[field]:
        return False
    numbers = (int, float) if field == "shares" else (int,)
    return not isinstance(value, list) or all(type(number) in numbers for number in value)


def _is_deeper(value: Any, depth: int) -> bool:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return children is not None and (depth == 0 or any(_is_deeper(child, depth - 1) for child in children))


def _check_size(structure: Structure, entry: Entry, most: int | None) -> None:
    """Refuse an entry that makes the model too large, before anything is allocated."""
    sizes: dict[str, int] = {}
    blocks = 0
    for edit in entry.edits:
        if isinstance(edit, Deepen):
            blocks += edit.size * (edit.hidden or edit.size)
        else:
            sizes[edit.width] = edit.new_size(sizes.get(edit.width, structure[edit.width].size))
    if most is not None and (planned := structure.parameters(sizes) + blocks) > most:
        raise SurgeryError(
            "the journal makes the model larger than it may be",
            seen=f"{planned:,} parameters after {', '.join(map(str, entry.edits))}",
            expected=f"at most {most:,}",
            advice="the journal was damaged, or belongs to another model; take it from the checkpoint again",
        )


def _shapes(change: Change) -> dict[str, list[int]]:
    return {name: list(parameter.new.shape) for name, parameter in change.parameters.items()}


def _compare(entry: Entry, change: Change) -> None:
    """Refuse a replayed edit that means something else: a name may stand for another width of another model."""
    recorded, made = entry.note.get("shapes"), _shapes(change)
    if recorded is not None and recorded != made:
        wanted = recorded if isinstance(recorded, dict) else {}
        name = next((name for name in (*wanted, *made) if wanted.get(name) != made.get(name)), "")
        raise SurgeryError(
            "the journal does not fit this model",
            seen=f"{', '.join(map(str, entry.edits))} makes {name!r} {made.get(name, 'keep its shape')}",
            expected=f"{wanted.get(name, 'no change of it')}, as recorded",
            advice="build the model, and choose the example, as they were when the journal began",
        )


def _unreadable(seen: str) -> SurgeryError:
    return SurgeryError(
        "this is not a journal that growkit can read",
        seen=seen,
        expected=f"what Journal.to_json writes, format {_FORMAT}",
        advice="take journal.json from the folder of the run; a later format needs a later growkit",
    )
