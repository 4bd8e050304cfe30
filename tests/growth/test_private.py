"""Private copies of models that hold what cannot be copied."""

from __future__ import annotations

import pytest
from torch import nn

from growkit.growth.private import private_copy


class Box(dict):
    """An empty container that refuses to be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("not to be copied")


@pytest.mark.parametrize("attribute", [Box(), (1, Box()), [Box()]], ids=["alone", "in a tuple", "in a list"])
def test_an_empty_container_that_cannot_be_copied_is_shared(attribute):
    model = nn.Linear(2, 2)
    model.attribute = attribute
    assert private_copy(model).attribute is attribute
