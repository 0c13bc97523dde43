"""Every risk measure on every family, against the closed forms of a standard normal return: within 1 %."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import pytest
import torch

from distrl.config.sections.heads import FAMILIES, RISKS
from distrl.functional.atoms import midpoints
from distrl.functional.distributions.base import make_return_distribution
from distrl.functional.risk.measures import make_risk

NORMAL = NormalDist()
COUNT = 1_000
GRID = {"size": 1_201, "v_min": -6.0, "v_max": 6.0, "spacing": "linear"}


def cpw_of_normal(curvature: float = RISKS["cpw"]["curvature"], points: int = 100_000) -> float:
    """The mean of F^-1(beta(tau)) for uniform tau, by the midpoint rule."""
    levels = [(i + 0.5) / points for i in range(points)]
    bent = [t**curvature / (t**curvature + (1 - t) ** curvature) ** (1 / curvature) for t in levels]
    return sum(map(NORMAL.inv_cdf, bent)) / points


#: Measure with its default options -> its value for N(0, 1).
CLOSED_FORMS = {
    "mean": 0.0,
    "cvar": -NORMAL.pdf(NORMAL.inv_cdf(0.1)) / 0.1,
    "wang": -0.75,
    "cpw": cpw_of_normal(),
    "power": -0.846284,  # the least of three: -3 / (2 sqrt(pi))
    "norm": 0.0,  # symmetric
    "mean_variance": -0.5,
    "entropic": -0.5,
    "var": NORMAL.inv_cdf(0.1),
    "mixed_var": -1.5 * NORMAL.pdf(NORMAL.inv_cdf(0.2)) / 0.2 / 2.5,  # the middle's mean is 0
}


def normal_distribution(family: str) -> tuple[dict[str, Any], torch.Tensor]:
    """Options of a fine head, and its parameters (P,) for N(0, 1)."""
    level = midpoints(COUNT, torch.zeros((), dtype=torch.float64))
    values = torch.special.ndtri(level)
    raw = torch.log(torch.expm1(torch.tensor([1.0 - 0.01], dtype=torch.float64)))  # of a standard deviation of 1
    zero = torch.zeros(1, dtype=torch.float64)
    if family in ("categorical", "two_hot"):
        grid = torch.linspace(GRID["v_min"], GRID["v_max"], GRID["size"], dtype=torch.float64)
        return GRID, -0.5 * grid.square()
    if family == "quantile":
        return {"size": COUNT}, values
    if family == "iqn":
        return {"acting_size": COUNT}, torch.cat((values, level))
    if family == "fqf":  # uneven fractions, narrow at both ends
        edges = torch.linspace(0, 1, COUNT + 1, dtype=torch.float64)
        edges = edges.square() * (3 - 2 * edges)
        middle, widths = (edges[1:] + edges[:-1]) / 2, edges.diff()
        return {"size": COUNT}, torch.cat((torch.special.ndtri(middle), middle, widths))
    if family == "gaussian":
        return {}, torch.cat((zero, raw))
    if family == "mixture":  # two equal components
        return {"size": 2}, torch.cat((zero, zero, zero, zero, raw, raw))
    assert family == "joint"
    return {"size": COUNT, "channels": 2}, torch.stack((0.25 * values, 0.75 * values), -1).flatten()


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"scalar"}))
@pytest.mark.parametrize("risk", RISKS)
def test_risk_of_every_head_within_one_percent(risk: str, family: str):
    options, params = normal_distribution(family)
    found = make_return_distribution(family, **options).risk(params, make_risk(risk, **RISKS[risk]))
    assert found.item() == pytest.approx(CLOSED_FORMS[risk], rel=0.01, abs=1e-6)


@pytest.mark.parametrize("risk", RISKS)
def test_a_mean_has_no_risk(risk: str):
    params = torch.tensor([1.25], dtype=torch.float64)
    assert make_return_distribution("scalar").risk(params, make_risk(risk)).item() == pytest.approx(1.25)
