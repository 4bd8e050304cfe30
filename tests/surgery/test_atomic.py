"""An edit that fails leaves no trace, whatever made it fail, and says what happened in four parts."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import Apply
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import growkit
from growkit.errors import GrowkitError, StructureError, SurgeryError
from growkit.structure import trace, trace_example
from growkit.surgery import Change, Deepen, Edit, Narrow, Operation, Widen, apply

Middle = Callable[[nn.Module, Tensor], Tensor]


def lived_in(middle: Middle = lambda m, x: x.relu(), **parts: nn.Module) -> tuple[nn.Module, list[Optimizer]]:
    """A network in the midst of training: gradients, momenta, moved statistics, hooks, mixed modes, attributes."""
    model = nn.Sequential(
        nn.Linear(3, 6),
        nn.BatchNorm1d(6),
        Apply(middle, **parts),
        nn.Linear(6, 4),
        nn.Sequential(nn.Tanh(), nn.Linear(4, 2)),
    )
    optimizers: list[Optimizer] = [
        Adam([*model[0].parameters(), *model[3].parameters()], amsgrad=True),
        SGD([{"params": [*model[1].parameters()]}, {"params": [*model[4].parameters()], "lr": 0.5}], 0.1, momentum=0.9),
    ]
    inputs = torch.randn(8, 3)
    for _ in range(2):
        model(inputs).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    model[0].weight.no_weight_decay = True
    model[0].weight.register_hook(lambda grad: grad)
    model[3].register_forward_hook(lambda *_: None)
    model[1].eval()
    return model, optimizers


def example() -> tuple[Tensor]:
    return (torch.randn(4, 3, generator=torch.Generator().manual_seed(4)),)


@dataclass(frozen=True)
class Failure:
    """An edit that must fail, and words that its message must contain, part by part."""

    edit: Edit | list[Edit]
    what: str
    seen: str = ""
    expected: str = ""
    advice: str = ""
    middle: Middle = lambda m, x: x.relu()
    error: type[GrowkitError] = SurgeryError
    parts: dict[str, Callable[[], nn.Module]] = field(default_factory=dict)


def shifted_view(m: nn.Module, x: Tensor) -> Tensor:
    return x.view(-1, 6).relu()


def asserted(m: nn.Module, x: Tensor) -> Tensor:
    if x.shape[1] != 6:
        raise RuntimeError("six units, please")
    return x.relu()


def halved(m: nn.Module, x: Tensor) -> Tensor:
    return x if x.shape[1] == 6 else x / 2


WRITTEN = {
    "what": "width '0' is frozen and cannot change",
    "seen": "gives its size as the number 6",
    "advice": "take the number from a shape, or make it an attribute of the module",
}

DOES_NOT_RUN = {
    "what": "leaves a model that does not run",
    "seen": "RuntimeError",
    "advice": "look for a size written as a number in `forward`",
}

FAILURES = {
    "a width that is not there": Failure(
        *(Widen("4.2", (0,)), "no width '4.2' in Sequential", "'4.2'", "one of '0', "),
        *("did you mean '4.1'?",),
        error=StructureError,
    ),
    "copies out of range": Failure(
        *(Widen("0", (2, 6, 9)), "names units that width '0' does not have", "copies [6, 9]", "units from 0 to 5"),
        *("indices count from 0",),
    ),
    "a negative unit": Failure(
        Widen("0", (-1,)), "names units that width '0' does not have", "copies [-1]", "units from 0 to 5"
    ),
    "removal out of range": Failure(
        Narrow("0", (6,)), "names units that width '0' does not have", "remove [6]", "units from 0 to 5"
    ),
    "a keeper out of range": Failure(
        Narrow("0", (1,), into=(7,)), "names units that width '0' does not have", "into [7]", "units from 0 to 5"
    ),
    "a frozen width": Failure(
        *(Widen("4.1", (0,)), "width '4.1' is frozen and cannot change", "Widen(width='4.1'", "0, 3"),
        *("Widen(..., output=True)",),
    ),
    "a size in a view": Failure(Widen("0", (0,)), **WRITTEN, middle=shifted_view),
    "a size in a view that divides": Failure(Widen("0", range(6)), **WRITTEN, middle=shifted_view),
    "a size in a slice": Failure(Widen("0", (0,)), **WRITTEN, middle=lambda m, x: x[:, :6].relu()),
    "a size in a norm": Failure(Widen("0", range(6)), **WRITTEN, middle=lambda m, x: F.layer_norm(x, (6,))),
    "a number of groups": Failure(
        *(Widen("0.weight", range(2)), "width '0.weight' is frozen and cannot change", "as the number 2"),
        advice="take the number from a shape",
        middle=lambda m, x: F.group_norm(x, 2),
    ),
    "a size in a comparison": Failure(Widen("0", (0,)), **DOES_NOT_RUN, middle=asserted),
    "a size that decides": Failure(
        *(Widen("0", (0,)), "changes what the model computes", "the output on the example moved by", "at most 1e-04"),
        *("look for sizes written as numbers",),
        middle=halved,
    ),
    "uneven copies under a layer norm": Failure(
        *(Widen("0", (0, 1)), "would change what the model computes", "units copied [0, 1] times"),
        *("each of the 6 units copied equally often", "`copies=range(size)`"),
        middle=lambda m, x: m.norm(x),
        parts={"norm": lambda: nn.LayerNorm(6)},
    ),
    "new units under a layer norm": Failure(
        *(Widen("0", new=1), "would change what the model computes", "native_layer_norm in '2.norm' (LayerNorm)"),
        *("each of the 6 units copied equally often", "exact=False"),
        middle=lambda m, x: m.norm(x),
        parts={"norm": lambda: nn.LayerNorm(6)},
    ),
    "new units under a maximum": Failure(
        *(Widen("0", new=1), "would change what the model computes", "aten.amax in '2' (Apply)", "copies only"),
        *("copy units",),
        middle=lambda m, x: x - x.amax(-1, keepdim=True),
    ),
    "a live unit goes": Failure(
        *(Narrow("3", (2,)), "changes what the model computes", "unit 2 is in use", "removed units", "exact=False"),
    ),
    "a live unit goes into another": Failure(
        Narrow("3", (2,), into=(0,)), "changes what the model computes", "no copy of unit 0", "copies", "exact=False"
    ),
    "all units go": Failure(
        Narrow("3", range(4)), "would leave no unit", "all 4 units removed", "at least one unit", "keep a unit"
    ),
    "growing and shrinking at once": Failure(
        *([Widen("3", (0,)), Narrow("3", (1,))], "two edits of '3' cannot be made at once", "Widen(width='3'"),
        *("one edit a width", "one after the other"),
    ),
    "a good edit with a bad one": Failure(
        [Widen("0", (0,)), Narrow("3", (2,))], "changes what the model computes", "unit 2 is in use"
    ),
    "a good block with a bad edit": Failure(
        [Deepen("0", "linear", 6), Narrow("3", (2,))], "changes what the model computes", "unit 2 is in use"
    ),
    "a good edit with a bad block": Failure(
        [Widen("3", (0,)), Deepen("nowhere", "linear", 6)], "cannot insert a block after 'nowhere'", "no such module"
    ),
    "a block after nothing": Failure(
        *(Deepen("4.7", "linear", 2), "cannot insert a block after '4.7'", "no such module"),
        *("a module inside the model", "model.named_modules()"),
    ),
    "a block after the model itself": Failure(Deepen("", "linear", 2), "cannot insert a block after ''"),
    "a block of the wrong size outside a sequence": Failure(
        *(Deepen("2.norm", "linear", 5), "leaves a model that does not run", "mat1 and mat2", "", ""),
        middle=lambda m, x: m.norm(x),
        parts={"norm": lambda: nn.BatchNorm1d(6)},
    ),
    "a block of the wrong size": Failure(
        Deepen("0", "linear", 5), "leaves a model that does not run", "mat1 and mat2", "", ""
    ),
    "a block of the wrong kind": Failure(Deepen("0", "conv2d", 6), "leaves a model that does not run", "RuntimeError"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failing_edit_leaves_no_trace(name, unchanged):
    failure = FAILURES[name]
    model, optimizers = lived_in(failure.middle, **{key: make() for key, make in failure.parts.items()})
    inputs = example()
    with unchanged(model, *optimizers), pytest.raises(failure.error) as caught:
        apply(model, failure.edit, example=inputs, optimizers=optimizers)
    error = caught.value
    for part in ("what", "seen", "expected", "advice"):
        assert getattr(failure, part) in getattr(error, part)
        assert len(getattr(error, part)) >= 5
    lines = str(error).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:4]] == ["seen", "expected", "advice"]


@pytest.mark.parametrize("name", FAILURES)
def test_after_a_failure_life_goes_on(name):
    failure = FAILURES[name]
    model, optimizers = lived_in(failure.middle, **{key: make() for key, make in failure.parts.items()})
    inputs = example()
    with pytest.raises(GrowkitError):
        apply(model, failure.edit, example=inputs, optimizers=optimizers)
    apply(model, Widen("3", (1, 2)), example=inputs, optimizers=optimizers)
    model(*inputs).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    assert optimizers[0].state[model[3].weight]["exp_avg"].shape == (6, 6)


# ------------------------------------------------------------------ failures from outside


def test_a_callback_that_raises_undoes_the_edit(unchanged):
    model, optimizers = lived_in()
    inputs = example()
    structure = trace_example(model, inputs)

    def refuse(change: Change) -> None:
        assert model[0].weight.shape == (7, 3)
        assert change.edits == (Widen("0", (0,)),)
        raise ArithmeticError("not good enough")

    with unchanged(model, *optimizers), pytest.raises(ArithmeticError, match="not good enough"):
        Operation(structure, inputs, optimizers).perform(Widen("0", (0,)), then=refuse)
    assert structure["0"].size == 6
    assert structure["0"].frozen is None
    Operation(structure, inputs, optimizers).perform(Widen("0", (0,)))
    assert structure["0"].size == 7


def test_a_callback_sees_blocks_and_its_refusal_removes_them(unchanged):
    model, optimizers = lived_in()
    inputs = example()

    def refuse(change: Change) -> None:
        assert "0_deeper" in model._modules
        assert len(optimizers[0].param_groups[0]["params"]) == 8
        raise ArithmeticError

    with unchanged(model, *optimizers), pytest.raises(ArithmeticError):
        Operation(trace_example(model, inputs), inputs, optimizers).perform(Deepen("0", "linear", 6), then=refuse)


def test_an_interruption_in_the_probe_undoes_the_edit(unchanged):
    model, optimizers = lived_in()
    inputs = example()

    def interrupt(module: nn.Module, args: Any) -> None:
        if module.weight.shape[1] != 6:
            raise KeyboardInterrupt

    model[3].register_forward_pre_hook(interrupt)
    with unchanged(model, *optimizers), pytest.raises(KeyboardInterrupt):
        apply(model, Widen("0", (0,)), example=inputs, optimizers=optimizers)


def test_a_layer_that_cannot_initialise_itself_undoes_the_edit(unchanged):
    model, optimizers = lived_in()
    inputs = example()
    model[0].reset_parameters = lambda: 1 / 0
    with unchanged(model, *optimizers), pytest.raises(ZeroDivisionError):
        apply(model, Widen("0", new=1), example=inputs, optimizers=optimizers)


@pytest.mark.parametrize("edit", [Widen("0", (0,)), Narrow("0", (0,))], ids=["widen", "narrow"])
def test_an_optimizer_that_refuses_keeps_everything(edit, unchanged):
    model, optimizers = lived_in()
    inputs = example()
    stubborn = SGD(model[3].parameters(), 0.1)
    stubborn.state[model[3].weight]["row norms"] = torch.ones(model[3].weight.shape[0], 1)
    with unchanged(model, *optimizers, stubborn), pytest.raises(SurgeryError, match="SGD keeps state"):
        apply(model, edit, example=inputs, optimizers=[*optimizers, stubborn], exact=False)


def test_an_output_that_changes_its_form_is_a_failed_probe(unchanged):
    model = Apply(lambda m, x: [m.last(h)] * h.shape[1] if (h := m.first(x)).shape[1] else [], first=nn.Linear(3, 4))
    model.last = nn.Linear(4, 2)
    inputs = example()
    with unchanged(model), pytest.raises(SurgeryError) as caught:
        apply(model, Widen("first", (0,)), example=inputs)
    assert "changes what the model computes" in caught.value.what


def test_a_model_that_cannot_be_traced_is_left_alone(unchanged):
    model, optimizers = lived_in()
    inputs = (torch.randn(4, 5),)
    with unchanged(model, *optimizers), pytest.raises(StructureError, match="forward pass of Sequential failed"):
        apply(model, Widen("0", (0,)), example=inputs, optimizers=optimizers)


def test_attributes_that_a_failing_edit_would_mirror_are_not_left_on_modules():
    model, _ = lived_in(lambda m, x: F.group_norm(x, 2))
    before = [set(vars(module)) for module in model.modules()]
    with pytest.raises(SurgeryError):
        apply(model, Widen("0", range(2)), example=example())
    assert [set(vars(module)) for module in model.modules()] == before


def test_a_refused_removal_does_not_freeze_its_width_for_other_edits():
    model, _ = lived_in()
    inputs = example()
    operation = Operation(trace_example(model, inputs), inputs)
    with pytest.raises(SurgeryError):
        operation.perform(Narrow("3", (2,)))
    operation.perform(Widen("3", (2,)))
    assert model[3].out_features == 5


def test_a_width_that_fails_its_probe_says_so_in_its_structure():
    model, _ = lived_in(asserted)
    inputs = example()
    structure = trace_example(model, inputs)
    with pytest.raises(SurgeryError):
        Operation(structure, inputs).perform(Widen("0", (0,)))
    assert "failed its probe" in structure["0"].frozen
    assert structure["3"].frozen is None


def test_successful_edits_leave_generators_and_modes_alone():
    model, optimizers = lived_in()
    inputs = example()
    modes, state = {module: module.training for module in model.modules()}, torch.get_rng_state()
    apply(model, [Widen("0", (1,), new=2), Deepen("0", "linear", 9)], example=inputs, optimizers=optimizers)
    assert torch.equal(torch.get_rng_state(), state)
    assert {module: module.training for module in modes} == modes


# ------------------------------------------------------------------ descriptions that make no sense


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Widen("0"), "adds nothing"),
        (lambda: Widen("0", (), -1), "adds nothing"),
        (lambda: Widen("0", (0,), -1), "adds nothing"),
        (lambda: Narrow("0", ()), "is not a removal"),
        (lambda: Narrow("0", (1, 1)), "is not a removal"),
        (lambda: Narrow("0", (1, 2), into=(0,)), "is not a removal"),
        (lambda: Narrow("0", (1, 2), into=(0, 1)), "is not a removal"),
        (lambda: Deepen("0", "attention", 4), "describes no block"),
        (lambda: Deepen("0", "linear", 0), "describes no block"),
        (lambda: Deepen("0", "linear", 4, hidden=0), "describes no block"),
    ],
)
def test_senseless_edits_cannot_be_described(make, what):
    with pytest.raises(SurgeryError, match=what) as caught:
        make()
    assert caught.value.seen
    assert caught.value.expected
    assert caught.value.advice


def test_a_carried_tensor_must_have_the_old_shape():
    model, _ = lived_in()
    change = apply(model, Widen("0", (0,)), example=example())
    with pytest.raises(SurgeryError, match=r"cannot carry a tensor along '0\.weight'") as caught:
        change.carry(torch.zeros(7, 3), parameter="0.weight")
    assert (caught.value.seen, caught.value.expected) == ("shape (7, 3)", "the old shape of the parameter, (6, 3)")


def test_the_change_of_an_unchanged_parameter_is_answered_with_the_nearest():
    model, _ = lived_in()
    change = apply(model, Widen("0", (0,)), example=example())
    with pytest.raises(SurgeryError, match=r"did you mean '0.weight'\?"):
        change["0.wieght"]
    unmoved = torch.zeros(2, 4)
    assert change.carry(unmoved, parameter="4.1.weight") is unmoved


def test_errors_survive_pickling():
    model, _ = lived_in()
    with pytest.raises(StructureError) as caught:
        trace(model, torch.randn(2, 5))
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is StructureError
    assert (str(again), again.advice) == (str(caught.value), caught.value.advice)


def test_a_model_without_data_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to("meta")
    with pytest.raises(SurgeryError, match=r"'0.weight' has no data"):
        apply(model, Widen("0", (0,)), example=(torch.randn(2, 3, device="meta"),))


@pytest.mark.parametrize("form", [Tensor.to_sparse, Tensor.to_sparse_csr], ids=["coordinates", "rows"])
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_outputs_are_compared(form):
    model = Apply(lambda m, x: form(m.last(m.first(x))), first=nn.Linear(3, 4), last=nn.Linear(4, 2))
    assert apply(model, Widen("first", (0,)), example=example()).moved <= 1e-6


@pytest.mark.parametrize("fill", [torch.ones, torch.zeros, torch.randn])
def test_an_example_of_equal_entries_proves_no_less(fill):
    class OneRootForTwo(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.r, self.s, self.v = (nn.Linear(6, 4) for _ in range(5))

        def forward(self, x):
            scores = self.q(x) @ self.k(x).mT + self.r(x) @ self.s(x).mT
            return (scores / self.q(x).shape[-1] ** 0.5).softmax(-1) @ self.v(x)

    torch.manual_seed(0)
    model = OneRootForTwo()
    with pytest.raises(SurgeryError, match="changes what the model computes"):
        growkit.apply(model, growkit.Widen("q", range(4)), example=(fill(1, 5, 6),))
    assert model.q.out_features == 4


def test_a_model_that_wants_just_the_values_of_its_example_grows():
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 5)

        def forward(self, x):
            if not bool((x == 1).all()):
                raise ValueError("ones only")
            return self.last(self.first(x).relu())

    model = Strict()
    growkit.apply(model, growkit.Widen("first", [0]), example=(torch.ones(2, 3),))
    assert model.first.out_features == 5
