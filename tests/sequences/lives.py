"""The life of a model: random edits, training steps, and a save and a load now and then; what holds all along."""

from __future__ import annotations

import copy
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import torch
from growth.stubs import has_four_parts
from networks import NETWORKS, build, freeze
from optimizers import Recipe, check_optimizers, scrambled
from pictures import bits, distance, picture
from torch import Tensor, nn, optim

import growkit
from growkit.lightning.checkpoint import layout_of, restore_layout
from growkit.structure import Structure, Width
from growkit.surgery import Change, Deepen, Edit, Journal, Narrow, Widen, apply

TOLERANCE = 1e-9
LARGEST = 3000  # parameters, so that a life does not slow down
KINDS = {2: "linear", 3: "linear", 4: "conv2d", 5: "conv3d"}


class Life:
    """A model with its optimizers and its journal.

    Args:
        seed: of everything.

    Attributes:
        counts: how often what was done.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.random, self.counts = seed, Random(seed), Counter()
        self.name = self.random.choice(list(NETWORKS))
        self.model, self.journal = build(self.name, seed), Journal()
        names = [name for name, _ in self.model.named_parameters()]
        self.frozen = self.random.sample(names, self.random.choice((0, 0, len(names) // 3)))
        freeze(self.model, self.frozen)
        self.recipe = Recipe(self.random, self.model)
        self.optimizers = self.recipe.make(self.model, self.recipe.layout)
        self.probe, self.inputs = NETWORKS[self.name].inputs(2), NETWORKS[self.name].inputs(5)
        self.twins: dict[str, list[tuple[int, int]]] = {}  # units and what they were copied from, by width

    def __str__(self) -> str:
        return f"life {self.seed}: {self.name} with {self.recipe.name}, {dict(self.counts)}"

    def live(self, length: int) -> None:
        """Do so many things, one after the other."""
        deeds = [
            self.train,
            self.train,
            self.widen,
            self.widen,
            self.shed_twins,
            self.shed_dead,
            self.deepen,
            self.misbehave,
        ]
        deeds += [self.make_several, self.change_function, self.put_out_more]
        self.train()
        for number in range(length):
            self.random.choice(deeds)()
            if number in (length // 2, length - 1):
                self.save_and_load()
            check_optimizers(self.model, self.optimizers)
        assert all(bool(output.isfinite().all()) for output in self._compute())

    # ------------------------------------------------------------- what may happen

    def train(self) -> None:
        for _ in range(self.random.randint(1, 3)):
            step(self.model, self.optimizers, NETWORKS[self.name].inputs(4))
        self.counts["steps"] += 1

    def widen(self) -> None:
        if width := self._any_width():
            edit = self._widening(width)
            if self.edit(edit) and not width.uniform:
                copies = enumerate(edit.copies, width.size)
                self.twins.setdefault(width.name, []).extend(copies)

    def shed_twins(self) -> None:
        """Take copies back; training may have parted them."""
        if self.twins:
            name = self.random.choice(list(self.twins))
            pairs = [
                pair for pair in self.twins.pop(name) if pair[1] < min(pair[0] for pair in self.twins.get(name, [pair]))
            ]
            removed = {unit for unit, _ in pairs}
            pairs = [pair for pair in pairs if pair[1] not in removed]
            if pairs:
                self.edit(Narrow(name, [unit for unit, _ in pairs], into=[keeper for _, keeper in pairs]))

    def _original(self, copied: dict[int, int], unit: int) -> int:
        """Follow copies of copies back to a unit that was there from the start."""
        return self._original(copied, copied[unit]) if unit in copied else unit

    def shed_dead(self) -> None:
        """Silence some units, and remove them."""
        width = self._any_width()
        if width and width.size > 1 and not width.uniform:
            units = self.random.sample(range(width.size), self.random.randint(1, width.size - 1))
            tensors = dict(self.model.named_parameters())
            with torch.no_grad():
                for piece in width.outgoing:
                    # A direction of weight norm without any length would be no direction.
                    if piece.parameter in tensors and "original1" not in piece.parameter:
                        tensors[piece.parameter].index_fill_(piece.axis, piece.index[units].flatten(), 0.0)
            if self.edit(Narrow(width.name, units)):
                self.twins.pop(width.name, None)

    def deepen(self) -> None:
        outputs = self._structure().outputs
        after = self.random.choice([name for name, shape in outputs.items() if name and len(shape) in KINDS] or [""])
        if after:
            self.edit(self._deepening(after, outputs[after]))

    def make_several(self) -> None:
        structure = self._structure()
        widths = self.random.sample(structure.growable, min(2, len(structure.growable)))
        if widths and self._is_small():
            self.edit([self._widening(width) for width in widths])

    def put_out_more(self) -> None:
        """Add outputs to the model, or rows to a table."""
        structure = self._structure()
        widths = [width for width in structure.widths.values() if width.open_ended and not width.symbol.frozen]
        if widths and self._is_small():
            width = self.random.choice(widths)
            self.edit(Widen(width.name, [self.random.randrange(width.size)], self.random.randint(0, 1), output=True))

    def change_function(self) -> None:
        width = self._any_width()
        if width and width.size > 2:
            units = self.random.sample(range(width.size), 1)
            if self.edit(Narrow(width.name, units), exact=False):
                self.twins.pop(width.name, None)

    def misbehave(self) -> None:
        """Ask for what cannot be."""
        width = self._any_width()
        name, size = (width.name, width.size) if width else ("nothing", 1)
        frozen = next((each.name for each in self._structure().widths.values() if each.symbol.frozen), "nobody")
        wrong: list[Any] = [
            Widen("nowhere", (0,)),
            Widen(name, (size,)),
            Widen(frozen, (0,)),
            Narrow(name, range(size)),
            [Narrow(name, (0,)), Widen(name, (0,))],
            Deepen("nowhere", "linear", 4),
            Deepen(next(iter(dict(self.model.named_children()))), "conv3d", 97),
        ]
        assert not self.edit(self.random.choice(wrong)), "an edit that cannot be made was made"

    # ------------------------------------------------------------- edits

    def edit(self, edits: Edit | Sequence[Edit], *, exact: bool = True) -> bool:
        """Make edits, or have them refused; say which."""
        before, outputs, facts = picture(self.model, self.optimizers), list(self._compute()), self._facts()
        options = {"example": self.probe, "optimizers": self.optimizers, "seed": self.random.randrange(1000)}
        try:
            change = apply(self.model, edits, exact=exact, **options)
        except growkit.GrowkitError as error:
            self._check_refusal(error, before)
            return False
        self.journal.append(change, number=len(self.journal))
        self.counts.update(type(each).__name__ for each in change.edits)
        if exact:
            for old, new in zip(outputs, self._compute(), strict=True):
                assert distance(old, new) <= TOLERANCE, change.edits
        self._check_facts(facts, change)
        check_optimizers(self.model, self.optimizers)
        assert Journal.from_json(self.journal.to_json()) == self.journal
        return True

    def _structure(self) -> Structure:
        return growkit.trace(self.model, *self.probe)

    def _any_width(self) -> Width | None:
        widths = self._structure().growable
        return self.random.choice(widths) if widths and self._is_small() else None

    def _is_small(self) -> bool:
        return sum(parameter.numel() for parameter in self.model.parameters()) < LARGEST

    def _widening(self, width: Width) -> Widen:
        everyone = list(range(width.size))
        state = self.random.choice(("carry", "carry", "zero", "copy"))
        if width.uniform:
            return Widen(width.name, self.random.sample(everyone, len(everyone)), state=state)
        copies = self.random.choices(everyone, k=self.random.randint(1, 3))
        new = 0 if width.copies_only else self.random.randint(0, 2)
        return Widen(width.name, copies, new, state=state)

    def _deepening(self, after: str, shape: tuple[int, ...]) -> Deepen:
        kind = "conv1d" if len(shape) == 3 and "Conv1d" in repr(self.model) else KINDS[len(shape)]
        size = shape[-1] if kind == "linear" else shape[1]
        residual = self.random.random() < 0.7
        return Deepen(after, kind, size, self.random.randint(1, 3) if residual else None, residual)

    # ------------------------------------------------------------- what holds

    def _compute(self) -> Iterator[Tensor]:
        """What the model computes, in training mode, too, where that is no matter of chance."""
        for training in (False,) if NETWORKS[self.name].random else (False, True):
            yield copy.deepcopy(self.model).train(training)(*self.inputs).detach()

    def _facts(self) -> dict[str, Any]:
        """What no edit may change of the tensors and of the optimizers."""
        named = [
            *self.model.named_parameters(remove_duplicate=False),
            *self.model.named_buffers(remove_duplicate=False),
        ]
        sharing: dict[int, set[str]] = {}
        for name, tensor in named:
            sharing.setdefault(id(tensor), set()).add(name)
        return {
            "kinds": {name: (type(tensor), tensor.dtype, tensor.requires_grad) for name, tensor in named},
            "ties": {name: sharing[id(tensor)] for name, tensor in named},
            "layout": layout_of(self.model, self.optimizers),
            "options": [
                {key: value for key, value in group.items() if key != "params"}
                for optimizer in self.optimizers
                for group in optimizer.param_groups
            ],
        }

    def _check_refusal(self, error: growkit.GrowkitError, before: dict[str, Any]) -> None:
        assert has_four_parts(error)
        assert picture(self.model, self.optimizers) == before
        self.counts["refusals"] += 1

    def _check_facts(self, before: dict[str, Any], change: Change) -> None:
        now, renamed = self._facts(), change.renamed
        for name, kind in before["kinds"].items():
            assert now["kinds"][renamed.get(name, name)] == kind, name
            assert now["ties"][renamed.get(name, name)] == {renamed.get(tied, tied) for tied in before["ties"][name]}
        for old, new in zip(before["layout"], now["layout"], strict=True):
            for names, others in zip(old, new, strict=True):
                kept = [renamed.get(name, name) for name in names]
                assert [name for name in others if name in kept] == kept
        assert now["options"] == before["options"]
        for parameter in self.model.parameters():
            assert parameter.grad is None or parameter.grad.shape == parameter.shape

    # ------------------------------------------------------------- saving

    def save_and_load(self) -> None:
        """Go on as a resumed run would; the next steps are those of the run that went on."""
        file = io.BytesIO()
        torch.save(
            {
                "weights": self.model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "journal": self.journal.to_json(),
                "layout": layout_of(self.model, self.optimizers),
            },
            file,
        )
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        model, journal = build(self.name, self.seed + 1), Journal.from_json(saved["journal"])
        freeze(model, self.frozen)
        journal.replay(model, example=self.probe)
        model.load_state_dict(saved["weights"])
        optimizers = self.recipe.make(model, scrambled(saved["layout"], self.random))
        restore_layout(saved["layout"], model, optimizers)
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        assert repr(model) == repr(self.model)
        for _ in range(2):
            inputs = NETWORKS[self.name].inputs(4)
            step(self.model, self.optimizers, inputs)
            step(model, optimizers, inputs)
        assert bits(model, optimizers) == bits(self.model, self.optimizers)
        self.model, self.optimizers, self.journal = model, optimizers, journal
        self.counts["loads"] += 1


def step(model: nn.Module, optimizers: Sequence[optim.Optimizer], inputs: tuple[Tensor, ...]) -> None:
    def closure() -> Tensor:
        model.zero_grad()
        torch.manual_seed(0)
        loss = model(*inputs).sin().square().mean()
        loss.backward()
        return loss

    for optimizer in optimizers:
        optimizer.step(closure)
