"""A growth event that fails changes nothing, and says whose fault it was."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from growth.stubs import Asks, Follows, Proposes, Selects, event, has_four_parts, mlp, take_steps, widen
from torch import nn

import growkit

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
GOOD = widen("0", 1)


class HalfHidden(nn.Module):
    """Divides by the number of its hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(3, 2, 2, 1)
        self.norm = nn.BatchNorm1d(2).double()

    def forward(self, x):
        hidden = self.norm(self.net[:3](x))
        return self.net[4](hidden) / hidden.shape[1]


class HardCoded(HalfHidden):
    """Insists on two hidden units."""

    def forward(self, x):
        hidden = self.norm(self.net[:3](x))
        if hidden.shape[1] != 2:
            raise RuntimeError("shapes cannot be multiplied")
        return self.net[4](hidden)


def raising(error: BaseException):
    def function(*arguments):
        raise error

    return function


def lazily(context):
    yield GOOD
    raise ZeroDivisionError("in the middle")


def column(*entries: float) -> torch.Tensor:
    return torch.tensor(entries, dtype=torch.float64)


@dataclass(frozen=True)
class Failure:
    """Plugins that make an event fail, and what the message must say beside the name of the culprit."""

    name: str
    plugins: tuple[growkit.Plugin, ...]
    says: str
    kind: type[growkit.GrowkitError] = growkit.SurgeryError
    model: type[nn.Module] | None = None

    def __str__(self) -> str:
        return self.name


def proposing(name: str, candidate: growkit.Candidate, says: str, **options) -> Failure:
    return Failure(name, (Proposes(candidate, name="culprit"),), says, **options)


FAILURES = [
    proposing("misspelt width", widen("00", 0), r"no width '00'.*did you mean '0'\?"),
    proposing("wrong width", widen("elsewhere", 0), r"no width 'elsewhere'.*'0'.*'2'"),
    proposing("index out of range", widen("0", 2), r"units from 0 to 1"),
    proposing("negative index", widen("0", -1), r"units from 0 to 1"),
    proposing("frozen width", widen("4", 0), r"frozen.*the model's output"),
    proposing("narrow to nothing", growkit.Candidate(growkit.Narrow("0", remove=[0, 1])), r"leave no unit"),
    proposing(
        "removal of a unit in use", growkit.Candidate(growkit.Narrow("0", remove=[0])), r"changes what the model"
    ),
    proposing("nowhere to insert", growkit.Candidate(growkit.Deepen("9", "linear", 2)), r"no such module"),
    proposing("block of a wrong size", growkit.Candidate(growkit.Deepen("0", "linear", 5)), r"does not run"),
    proposing("offsets of a wrong length", widen("0", 1, bias__0=torch.zeros(3)), r"shape \(3,\).*of shape \(2,\)"),
    proposing("offsets without an axis", widen("0", 1, weight__0=torch.zeros(2)), r"shape \(2,\).*\(2, 3\)"),
    proposing("offsets with NaN", widen("0", 1, bias__0=column(0, math.nan)), r"NaN or infinite"),
    proposing("infinite offsets", widen("0", 1, bias__0=column(0, -math.inf)), r"NaN or infinite"),
    proposing(
        "offsets of outgoing weights", widen("0", 1, weight__2=torch.zeros(2, 2)), r"'2.weight', which holds none"
    ),
    proposing("offsets of nothing", widen("0", 1, scale__0=torch.zeros(2)), r"'0.scale', which holds none"),
    proposing(
        "offsets of a removal",
        growkit.Candidate(growkit.Narrow("0", remove=[0], into=[1]), offsets={"0.bias": torch.zeros(2)}),
        r"holds none of the units",
    ),
    Failure(
        *(
            "widened and narrowed",
            (Proposes(widen("0", 0), growkit.Candidate(growkit.Narrow("0", [1])), name="culprit"),),
        ),
        says=r"cannot be made at once",
    ),
    proposing(
        "hidden size", widen("net.2", 0), r"used as a number in the forward pass of HalfHidden", model=HalfHidden
    ),
    proposing("hard-coded size", widen("net.2", 0), r"does not run.*shapes cannot be multiplied", model=HardCoded),
    Failure(
        *("exception", (Asks(raising(ZeroDivisionError("oh")), "culprit"),), r"ZeroDivisionError: oh"),
        kind=growkit.PluginError,
    ),
    Failure(
        *("exception of a generator", (Asks(lazily, "culprit"),), r"ZeroDivisionError: in the middle"),
        kind=growkit.PluginError,
    ),
    Failure(
        *("invalid edit", (Asks(lambda context: [growkit.Widen("0")], "culprit"),), r"adds nothing"),
        kind=growkit.GrowkitError,
    ),
    Failure(
        *("gain that is NaN", (Asks(lambda context: [widen("0", 1, gain=math.nan)], "culprit"),), r"finite gain"),
        kind=growkit.GrowkitError,
    ),
    Failure(
        *("no candidate", (Asks(lambda context: [growkit.Widen("0", [1])], "culprit"),), r"growkit\.Candidate"),
        kind=growkit.PluginError,
    ),
    Failure(
        *("no list", (Asks(lambda context: GOOD, "culprit"),), r"returned something else than candidates"),
        kind=growkit.PluginError,
    ),
    Failure(
        *("selection that raises", (Proposes(GOOD), Selects(raising(KeyError("k")), "culprit")), r"KeyError: 'k'"),
        kind=growkit.PluginError,
    ),
    Failure(
        *("selection of a misfit", (Proposes(GOOD), Selects(lambda *_: [widen("elsewhere", 0)], "culprit"))),
        says=r"no width 'elsewhere'",
    ),
    Failure(
        *(
            "selection of wrong offsets",
            (Proposes(GOOD), Selects(lambda *_: [widen("0", 0, bias__0=column(1))], "culprit")),
        ),
        says=r"shape \(1,\).*of shape \(2,\)",
    ),
    Failure(
        *("selection of no candidates", (Proposes(GOOD), Selects(lambda *_: [growkit.Widen("0", [1])], "culprit"))),
        says=r"growkit\.Candidate",
        kind=growkit.PluginError,
    ),
    Failure(
        *("selection of no list", (Proposes(GOOD), Selects(lambda *_: GOOD, "culprit")), r"growkit_select"),
        kind=growkit.PluginError,
    ),
    Failure(
        *("follower that raises", (Proposes(GOOD), Follows(raising(IndexError("i")), "culprit")), r"IndexError: i"),
        kind=growkit.PluginError,
    ),
]


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_a_failing_event_changes_nothing_and_names_the_plugin(failure, unchanged):
    model = (failure.model or (lambda: mlp(3, 2, 2, 1)))()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    take_steps(model, optimizer, X)
    journal = growkit.Journal()
    journal.record(growkit.Widen("0", [0]))
    model[1:].eval() if isinstance(model, nn.Sequential) else model.norm.eval()
    before = journal.to_json()
    with unchanged(model, optimizer), pytest.raises(failure.kind, match=f"(?s){failure.says}") as caught:
        event(model, *failure.plugins, example=(X,), optimizers=[optimizer], journal=journal)
    assert journal.to_json() == before
    assert has_four_parts(caught.value)
    assert "plugin 'culprit' (this program)" in str(caught.value)
    losses = take_steps(model, optimizer, X, count=40)
    assert losses[-1] < losses[0]


def test_only_the_plugin_whose_candidate_fails_is_blamed():
    with pytest.raises(growkit.SurgeryError, match="culprit") as caught:
        event(
            mlp(3, 2, 2, 1),
            Proposes(widen("2", 0), name="bystander"),
            Proposes(widen("0", 5), name="culprit"),
            example=(X,),
        )
    assert "bystander" not in str(caught.value)


def test_offsets_along_an_axis_of_several_widths_are_refused(unchanged):
    """Each of three channels is made of two: rows of the depthwise kernel belong to both widths."""
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Conv1d(3, 6, 1, groups=3), nn.Conv1d(6, 1, 1)).double()
    x = torch.ones(2, 2, 4).double()
    (piece,) = (p for p in growkit.trace(model, x)["0"].incoming if p.parameter == "1.weight")
    offset = torch.ones(4, 1, 1).double()
    with unchanged(model), pytest.raises(growkit.SurgeryError, match=r"(?s)'proposes'.*several widths"):
        event(model, Proposes(widen("0", 1, weight__1=offset)), example=(x,))
    assert piece.index.shape == (3, 2)


def test_an_optimizer_that_nobody_can_carry_refuses_the_event(unchanged):
    model = mlp(3, 2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model[0].weight] = {"sketch": torch.zeros(5)}
    with unchanged(model, optimizer), pytest.raises(growkit.SurgeryError, match=r"(?s)'sketch'.*shape") as caught:
        event(model, Proposes(GOOD), example=(X,), optimizers=[optimizer])
    assert has_four_parts(caught.value)


def test_a_carrier_that_raises_changes_nothing(unchanged):
    class Carries(growkit.Plugin):
        @growkit.hookimpl
        def growkit_carry_optimizer_state(self, optimizer):
            raise LookupError("lost")

    model = mlp(3, 2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    take_steps(model, optimizer, X)
    with unchanged(model, optimizer), pytest.raises(growkit.PluginError, match=r"(?s)'Carries'.*LookupError: lost"):
        event(model, Proposes(GOOD), Carries(), example=(X,), optimizers=[optimizer])


def test_an_interruption_from_the_keyboard_passes_and_changes_nothing(unchanged):
    model = mlp(3, 2, 1)
    with unchanged(model), pytest.raises(KeyboardInterrupt):
        event(model, Asks(raising(KeyboardInterrupt())), example=(X,))


def test_after_a_failure_the_same_model_can_grow():
    model = HalfHidden()
    with pytest.raises(growkit.SurgeryError):
        event(model, Proposes(widen("net.2", 0)), example=(X,))
    before = model(X)
    model.eval()
    before = model(X)
    event(model, Proposes(widen("net.0", 0)), example=(X,))
    torch.testing.assert_close(model(X), before, rtol=0, atol=1e-10)
