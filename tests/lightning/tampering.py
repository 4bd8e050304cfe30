"""Checkpoints that were damaged by accident or on purpose: each from a kind of tampering and a seed."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import shutil
import subprocess
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from growkit.lightning.checkpoint import STATE_KEY

Tampering = Callable[[bytes, random.Random], bytes]
Path_ = tuple[Any, ...]


def read(content: bytes) -> dict[str, Any]:
    return torch.load(io.BytesIO(content), weights_only=True)


def written(checkpoint: Any) -> bytes:
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()


# ---------------------------------------------------------------- bytes


def cut(content: bytes, dice: random.Random) -> bytes:
    """Anywhere, but more often near the ends, where the headers are."""
    length = len(content)
    return content[: dice.choice([dice.randrange(length), dice.randrange(200), length - 1 - dice.randrange(2000)])]


def flipped(content: bytes, dice: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(dice.choice([1, 1, 1, 2, 8, 64])):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def spliced(content: bytes, dice: random.Random) -> bytes:
    """A piece is moved, repeated, zeroed or missing."""
    start, stop = sorted(dice.sample(range(len(content)), 2))
    head, piece, tail = content[:start], content[start:stop], content[stop:]
    return head + dice.choice([b"", piece * 2, bytes(len(piece)), piece[::-1]]) + tail


# ---------------------------------------------------------------- the archive


def members(content: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def zipped(entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")  # names that are there twice
        for name, data in entries:
            archive.writestr(name, data)
    return file.getvalue()


def rearranged(content: bytes, dice: random.Random) -> bytes:
    """Checksums are right; which record has which content, and what there is of them, is not."""
    entries = members(content)
    one, other = dice.sample(range(len(entries)), 2)
    (name, data), (other_name, other_data) = entries[one], entries[other]
    trick = dice.randrange(7)
    if trick == 0:
        entries[one], entries[other] = (name, other_data), (other_name, data)
    elif trick == 1:
        del entries[one]
    elif trick == 2:
        entries.append((name, other_data))
    elif trick == 3:
        entries[one] = (name.replace("data", "Data") + "x", data)
    elif trick == 4:
        entries[one] = (name, data[: len(data) // 2])
    elif trick == 5:
        entries[one] = (name, data + bytes(dice.randrange(1, 100)))
    else:
        entries[one] = (name, bytes(10**7))
        return zipped(entries, zipfile.ZIP_DEFLATED)
    return zipped(entries)


# ---------------------------------------------------------------- code

SENTINEL = "ran"  # the file that code in a checkpoint would leave in the current folder


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Builds:
    """Pickles as an object that is built, and then given a state."""

    def __reduce__(self) -> Any:
        return nn.Linear, (1, 1), {"forward": Calls(eval, _CODE)}


_CODE = f"open({SENTINEL!r}, 'w').close()"
_PAYLOADS: list[Callable[[], Any]] = [
    lambda: Calls(os.system, f"touch {SENTINEL}"),
    lambda: Calls(eval, _CODE),
    lambda: Calls(exec, _CODE),
    lambda: Calls(Path.touch, Path(SENTINEL)),
    lambda: Calls(subprocess.check_call, ["touch", SENTINEL]),
    lambda: Calls(getattr, Path(SENTINEL), "touch"),
    lambda: Calls(shutil.copy, __file__, SENTINEL),
    lambda: Calls(torch.save, 1, SENTINEL),
    lambda: Calls(torch.load, "somewhere", None, None, False),
    lambda: Calls(torch.hub.load, ".", "model", "local"),
    lambda: nn.Linear(1, 1),
    Builds,
]


def armed(content: bytes, dice: random.Random) -> bytes:
    """Somewhere a pickle that runs code, or that makes objects which could."""
    checkpoint = read(content)
    path = dice.choice([path for path in paths(checkpoint) if len(path) < 6])
    return written(replaced(checkpoint, path, dice.choice(_PAYLOADS)()))


# ---------------------------------------------------------------- values


def paths(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Yield the way to every value in nested dicts and lists, a few of the entries of each."""
    yield path
    children = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, child in children[:12]:
        yield from paths(child, (*path, key))


def replaced(value: Any, path: Path_, new: Any) -> Any:
    """Return nested dicts and lists with another value somewhere."""
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


def at(value: Any, path: Path_) -> Any:
    return at(value[path[0]], path[1:]) if path else value


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


_JUNK: list[Callable[[], Any]] = [
    *map(lambda value: lambda: value, (None, True, False, 0, -1, 7, 10**12, 10**30, -(10**30), 10**5000)),
    *map(lambda value: lambda: value, (0.5, float("nan"), float("inf"), 1j, "", "x", "\ud800", "x" * 10**6, b"", b"x")),
    *(lambda: [], lambda: {}, lambda: (), lambda: {1, 2}, lambda: [[]], lambda: [None], lambda: {"x": 1}),
    *(lambda: {1: 2}, lambda: nested(100), lambda: nested(300), lambda: {"x": nested(300)}, lambda: [1] * 10**5),
    *(lambda: torch.zeros(2, 2), lambda: torch.zeros(0), lambda: torch.zeros(5056, dtype=torch.uint8)),
    *(lambda: torch.zeros(1).expand(10**9), lambda: torch.zeros(10**9, 10**6, device="meta"), lambda: torch.ones(9)),
    *(lambda: torch.zeros(4, dtype=torch.complex64), lambda: torch.eye(3).to_sparse(), lambda: torch.tensor(torch.nan)),
    *(lambda: (torch.zeros(1).expand(10**9, 6),), lambda: (torch.ones(2, 9),), lambda: {"x": torch.zeros(2, 6)}),
    *(lambda: (torch.zeros(2, 6, dtype=torch.int64),), lambda: (None,), lambda: ("text", 1), lambda: torch.float32),
]


def of_state(content: bytes, dice: random.Random) -> bytes:
    """Something else somewhere in the state of growth, or something missing."""
    checkpoint = read(content)
    state = checkpoint["callbacks"][STATE_KEY]
    part = dice.choice([*state, None])  # parts with many entries must not be all that is tried
    path = dice.choice([path for path in paths(state) if part is None or path[:1] == (part,)])
    path = (part,) if part is not None and dice.random() < 0.4 else path
    if path and dice.random() < 0.1:
        state = copy.deepcopy(state)
        del at(state, path[:-1])[path[-1]]
    else:
        state = replaced(state, path, dice.choice(_JUNK)())
    return written(replaced(checkpoint, ("callbacks", STATE_KEY), state))


def of_weights(content: bytes, dice: random.Random) -> bytes:
    """Weights of another shape or type, too few or too many of them, or none."""
    checkpoint = read(content)
    weights = dict(checkpoint["state_dict"])
    name = dice.choice(list(weights))
    value = weights[name]
    trick = dice.randrange(8)
    if trick == 0:
        del weights[name]
    elif trick == 1:
        weights[dice.choice(["", "x", "first.weight.x", f"{name}2", 3])] = value
    elif trick == 2:
        shape = [max(0, size + dice.choice([-1, 0, 1, 10])) for size in value.shape]
        weights[name] = torch.zeros(dice.choice([shape, [*shape, 1], shape[1:], shape[::-1], [0], []]))
    elif trick == 3:
        kinds = (torch.float64, torch.bfloat16, torch.int8, torch.bool, torch.complex64, torch.uint8)
        weights[name] = value.to(dice.choice(kinds))
    elif trick == 4:
        weights[name] = value[..., :1].expand(value.shape) if value.dim() else value.expand(10**9)
    elif trick == 5:
        weights[name] = dice.choice([value.to("meta"), value.to_sparse(), value.t() if value.dim() == 2 else value])
    else:
        weights[name] = dice.choice(_JUNK)()
    checkpoint["state_dict"] = weights if trick != 7 else dice.choice(_JUNK)()
    return written(checkpoint)


# ---------------------------------------------------------------- the journal

_JSON: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 1.0, 1e308, float("nan"), float("-inf"), 10**6, 10**9, 10**12, 10**30),
    *("", "first", "second", "last", "first.weight[1]", "x" * 10**6, "\ud800", "carry", "conv3d", "widen", "narrow"),
    *([], {}, [0], [0, 0], [-1], [10**12], [None], ["0"], [[0]], [0.0], [True], list(range(1000)), {"0": 0}),
    *(nested(50), nested(90), {"edit": "widen", "width": "second", "new": 10**12}),
    *({"edit": "deepen", "after": "first", "kind": "linear", "size": 6, "hidden": 10**12}, {"edit": "widen"}),
    *({"edit": "deepen", "after": "first", "kind": "conv3d", "size": 10**9}, {"edit": "narrow", "width": "first"}),
]


def of_journal(content: bytes, dice: random.Random) -> bytes:
    """A journal that is still JSON, but says something else."""

    def change(text: str) -> str:
        data = json.loads(text)
        entry = dice.randrange(len(data["entries"]))
        known = [p for p in paths(data) if len(p) < 3 or (p[1] == entry and p[2:4] != ("note", "before"))]
        edits = [p for p in known if "edits" in p]
        path = dice.choice(edits if dice.random() < 0.6 else known)
        trick, value = dice.randrange(8), at(data, path)
        if trick == 0 and path:
            del at(data, path[:-1])[path[-1]]
        elif trick == 1 and isinstance(value, list) and value:
            value.append(value[dice.randrange(len(value))])
        elif trick == 2 and isinstance(value, list):
            value.reverse()
        elif trick == 3 and isinstance(value, dict):
            value[dice.choice(["x", "", "new", "size", "hidden", "shapes"])] = dice.choice(_JSON)
        else:
            data = replaced(data, path, dice.choice(_JSON))
        return json.dumps(data)

    return with_journal(content, change)


def of_journal_text(content: bytes, dice: random.Random) -> bytes:
    """A journal that is hardly JSON."""

    def change(text: str) -> Any:
        place = dice.randrange(len(text))
        deep = "[" * dice.choice([100, 900, 1000, 100_000])
        return dice.choice(
            [
                *(text[:place], text[place:], text[:place] + dice.choice('{}[]",:0-\x00\ud800') + text[place:]),
                *(text.encode(), text.encode("utf-16"), "\ufeff" + text, text.encode().decode("utf-16", "ignore")),
                *(text.replace("1", "1" * 5000), text.replace("4", "4e400"), text.replace('"first"', f'"{deep}"')),
                *(deep, deep + "]" * len(deep), f'{{"growkit_journal": 1, "entries": {deep}{"]" * len(deep)}}}'),
                *(text.replace('"note": {', f'"note": {{"x": {deep}{"]" * len(deep)}, '), text + text, text * 1000),
                *(text.replace('"edits"', '"edits": [], "edits"'), text.replace('"note"', '"note": 3, "note"')),
                *(text.replace('"new": 1', f'"new": {10**place}'), text.replace("[", "[null,"), "", " ", '""', "0"),
            ]
        )

    return with_journal(content, change)


def with_journal(content: bytes, change: Callable[[str], Any]) -> bytes:
    """Return a checkpoint with another journal."""
    checkpoint = read(content)
    state = checkpoint["callbacks"][STATE_KEY]
    state["journal"] = change(state["journal"])
    return written(checkpoint)


TAMPERINGS: dict[str, tuple[Tampering, int]] = {
    "cut": (cut, 70),
    "flipped": (flipped, 150),
    "spliced": (spliced, 40),
    "rearranged": (rearranged, 60),
    "armed": (armed, 90),
    "state": (of_state, 250),
    "weights": (of_weights, 120),
    "journal": (of_journal, 200),
    "journal text": (of_journal_text, 70),
}


def tampered(content: bytes, kind: str, seed: int) -> bytes:
    """Return the checkpoint of a kind and a seed, always the same."""
    return TAMPERINGS[kind][0](content, random.Random(f"{kind} {seed}"))
