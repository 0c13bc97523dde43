"""Every derivative of the table is that of its torch function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.control.numpy_gradients.derivatives import DERIVATIVES, differentiate, has_derivative
from distrl.functional.policy.objectives import clipped_surrogate

#: options of the functions by name of their parameter; all others are columns
OPTIONS: dict[str, list[float | None]] = {
    "clip": [0.05, 0.2, 0.5],
    "dual_clip": [None, 1.5, 3.0],
    "clip_high": [None, 0.05, 0.3],
    "eps": [0.05, 0.2, 0.5],
    "kappa": [None, 0.0, 0.5, 1.0],
}
NUMBERS = st.lists(st.tuples(*[st.floats(-4, 4, width=32)] * 3), min_size=1, max_size=20)


@pytest.mark.parametrize("function", DERIVATIVES, ids=lambda function: function.__name__)
@settings(max_examples=100, deadline=None)
@given(rows=NUMBERS, data=st.data())
def test_a_derivative_is_autograds(function: Callable[..., Any], rows: list[Any], data: Any) -> None:
    first, *others = inspect.signature(function).parameters
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]
    x = columns[0].exp() if first == "ratio" else columns[0]
    options = {name: data.draw(st.sampled_from(OPTIONS[name])) for name in others if name in OPTIONS}
    named = dict(zip([name for name in others if name not in OPTIONS], columns[1:], strict=False))
    x.requires_grad_()
    expected = function(x, **named, **options)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    arrays = {name: column.numpy() for name, column in named.items()}
    value, derivative = differentiate(partial(function, **arrays, **options), x.detach().numpy())
    np.testing.assert_allclose(value, expected.detach().numpy(), atol=1e-12)
    # At a kink torch takes the middle of the two derivatives.
    below, above = (function(x.detach() + step, **named, **options).numpy() for step in (-1e-6, 1e-6))
    kink = np.abs(below + above - 2 * value) > 1e-8
    np.testing.assert_allclose(derivative[~kink], gradient.numpy()[~kink], atol=1e-9)


def test_other_functions_have_none() -> None:
    assert has_derivative(partial(clipped_surrogate, clip=0.2))
    assert not has_derivative(partial(torch.add, other=1.0))
    assert not has_derivative(clipped_surrogate)  # its other arguments are not bound
