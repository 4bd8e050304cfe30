"""The journal: the ordered list of applied edits. Structure only, never tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from growkit.errors import SurgeryError
from growkit.plugins import Plugins
from growkit.structure import trace_example
from growkit.structure.forward import Example
from growkit.surgery.apply import Operation
from growkit.surgery.carry import Change
from growkit.surgery.edits import Edit, edit_from_dict, edit_to_dict

__all__ = ["Entry", "Journal"]

_FORMAT = 1


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
        except (ValueError, KeyError, TypeError) as error:
            raise _unreadable(f"{type(error).__name__}: {error}") from error
        if version != _FORMAT:
            raise _unreadable(f"format {version!r}")
        return cls(Entry(tuple(edit_from_dict(edit) for edit in edits), note) for edits, note in entries)

    def replay(self, model: nn.Module, *, example: Example, plugins: Plugins | None = None) -> dict[str, str]:
        """Give a freshly built model the recorded structure; its weights are to be loaded afterwards.

        Args:
            model: built as the recorded one was before its first edit.
            example: inputs for the trace, see `growkit.apply`.
            plugins: whose rules and modules take part; the installed ones if None.

        Returns:
            The new names of parameters and buffers that `Deepen` moved into a container, by their names in the fresh
            model.

        Raises:
            SurgeryError: an edit does not fit the model, or gives it other shapes than those recorded. The edits
                before it stay applied.

        Cost: a trace and two forward passes for each entry, and the copies that the edits need.
        """
        renamed: dict[str, str] = {}
        for entry in self.entries:
            # Traced anew each time: a size of 1 may mean something else than the size before.
            operation = Operation(trace_example(model, example, plugins), example, exact=False)
            change = operation.perform(entry.edits, then=partial(_compare, entry))
            moved = dict(change.renamed)
            renamed = {name: moved.pop(now, now) for name, now in renamed.items()} | moved
        return renamed


def _shapes(change: Change) -> dict[str, list[int]]:
    return {name: list(parameter.new.shape) for name, parameter in change.parameters.items()}


def _compare(entry: Entry, change: Change) -> None:
    """Refuse a replayed edit that means something else: a name may stand for another width of another model."""
    recorded, made = entry.note.get("shapes"), _shapes(change)
    if recorded is not None and recorded != made:
        name = next(name for name in (*recorded, *made) if recorded.get(name) != made.get(name))
        raise SurgeryError(
            "the journal does not fit this model",
            seen=f"{', '.join(map(str, entry.edits))} makes {name!r} {made.get(name, 'keep its shape')}",
            expected=f"{recorded.get(name, 'no change of it')}, as recorded",
            advice="build the model, and choose the example, as they were when the journal began",
        )


def _unreadable(seen: str) -> SurgeryError:
    return SurgeryError(
        "this is not a journal that growkit can read",
        seen=seen,
        expected=f"what Journal.to_json writes, format {_FORMAT}",
        advice="take journal.json from the folder of the run; a later format needs a later growkit",
    )
