"""Return distributions and risk measures: `critic_head: quantile`, `risk: cvar`.

A bare word is short for `{name: word}`. Only the keys that a family has may be set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from distrl.base.errors import ConfigError, unknown
from distrl.config.sections.base import Section

Options = dict[str, Any]

#: Family -> its keys and their defaults, as in `functional/return_distribution*.py`.
FAMILIES: dict[str, Options] = {
    "scalar": {"kappa": None},
    "categorical": {"size": 51, "v_min": -10.0, "v_max": 10.0, "spacing": "linear"},
    "two_hot": {"size": 101, "v_min": -1e4, "v_max": 1e4, "spacing": "symlog"},
    "quantile": {"size": 32, "kappa": 1.0, "monotone": False},
    "iqn": {"size": 8, "acting_size": 32, "kappa": 1.0, "embedding": 64},
    "fqf": {"size": 32, "kappa": 1.0, "entropy": 0.0, "embedding": 64, "fraction_rate": 0.01},
    "gaussian": {"size": 64, "sigma_min": 0.01, "clip": None},
    "mixture": {"size": 5, "atoms_each": 32, "sigma_min": 0.01},
    "joint": {"size": 32, "channels": 2, "weights": None, "kernel": "gaussian"},
}

#: Measure -> its keys and their defaults, as in `functional/risk*.py`.
RISKS: dict[str, Options] = {
    "mean": {},
    "cvar": {"level": 0.1},
    "wang": {"eta": -0.75},
    "cpw": {"curvature": 0.71},
    "power": {"eta": -2.0},
    "norm": {"count": 3},
    "mean_variance": {"weight": 0.5},
    "entropic": {"beta": -1.0},
    "var": {"level": 0.1},
    "mixed_var": {"low": 0.2, "high": 0.8, "weight": 1.5},
}

#: Keys that the network of a head reads; the others describe the distribution.
NETWORK_KEYS = ("embedding", "fraction_rate")


class _Named(Section):
    """A section that a bare word may stand for."""

    name: str

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    def _given(self) -> Options:
        """Return the keys that are set; null counts as not set."""
        chosen = {key: getattr(self, key) for key in type(self).model_fields if key != "name"}
        return {key: value for key, value in chosen.items() if value is not None}


class ReturnHeadConfig(_Named):
    """Return distribution of a critic. A name alone takes the family's defaults."""

    name: str = "scalar"
    """Family: scalar, categorical, two_hot, quantile, iqn, fqf, gaussian, mixture, joint, or `module:Class`."""
    size: int | None = Field(None, ge=1)
    """Atoms, quantiles, random levels, components or particles. More: finer and slower. Usual: 8-200."""
    acting_size: int | None = Field(None, ge=1)
    """iqn: levels read when acting. Usual: 32."""
    v_min: float | None = None
    """categorical, two_hot: lowest return on the grid. Must be below every return that can occur."""
    v_max: float | None = None
    """categorical, two_hot: highest return on the grid."""
    spacing: str | None = None
    """categorical, two_hot: `linear`, or `symlog` (fine near 0, coarse far away)."""
    kappa: float | None = Field(None, ge=0)
    """Huber threshold in units of return. 0 is exact quantiles; scalar: null is the squared error. Usual: 1."""
    monotone: bool | None = None
    """quantile: quantiles that cannot cross."""
    embedding: int | None = Field(None, ge=1)
    """iqn, fqf: cosine features of a level. Usual: 64."""
    entropy: float | None = Field(None, ge=0)
    """fqf: weight of the entropy of the fractions. Usual: 0 to 1e-3."""
    fraction_rate: float | None = Field(None, gt=0)
    """fqf: learning rate of the fractions over the critic's. The paper's is 5e-5 (2.5e-9 over 5e-5)."""
    sigma_min: float | None = Field(None, ge=0)
    """gaussian, mixture: least standard deviation. DSAC: 1. Lower: sharper distributions, larger gradients."""
    clip: float | None = Field(None, gt=0)
    """gaussian: bound on errors in the gradient of the standard deviation. DSAC: 10-20; null is none."""
    atoms_each: int | None = Field(None, ge=2)
    """mixture: atoms that each component is read as."""
    channels: int | None = Field(None, ge=1)
    """joint: reward channels."""
    weights: list[float] | None = None
    """joint: weights of the channels in the return that is acted for; null is 1 each."""
    kernel: str | None = None
    """joint: `gaussian`, or `energy` (scales with the returns)."""

    @model_validator(mode="after")
    def _check(self) -> ReturnHeadConfig:
        options = check_keys("return distribution", self.name, FAMILIES, self._given())
        _one_of("spacing", options.get("spacing"), ("linear", "symlog"))
        _one_of("kernel", options.get("kernel"), ("gaussian", "energy"))
        low, high = options.get("v_min"), options.get("v_max")
        if low is not None and high is not None and not low < high:
            raise ConfigError(f"{self.name}: v_min is {low:g} and v_max {high:g}; expected v_min < v_max.")
        if self.name in ("categorical", "two_hot") and options["size"] < 2:
            raise ConfigError(f"{self.name}: size is {options['size']}; a grid needs at least 2 atoms.")
        weights = options.get("weights")
        if weights is not None and len(weights) != options["channels"]:
            raise ConfigError(
                f"joint: {len(weights)} weights for {options['channels']} channels.", "Give one weight for each."
            )
        return self

    def options(self) -> Options:
        """Keyword arguments of the family: what was set, over its defaults."""
        every = {**FAMILIES.get(self.name, {}), **self._given()}
        return {key: value for key, value in every.items() if key not in NETWORK_KEYS}

    def network_options(self) -> Options:
        """Keyword arguments of the head's network."""
        every = {**FAMILIES.get(self.name, {}), **self._given()}
        return {key: value for key, value in every.items() if key in NETWORK_KEYS}


class RiskConfig(_Named):
    """Ranking of return distributions. A word alone takes the measure's defaults."""

    name: str = "mean"
    """mean, cvar, wang, cpw, power, norm, mean_variance, entropic, var, mixed_var, or `module:Class`."""
    level: float | None = Field(None, gt=0, le=1)
    """cvar, var: share of the worst outcomes. 1 is all of them. Usual: 0.05-0.5."""
    eta: float | None = None
    """wang, power: below 0 averse, above 0 seeking. Usual: -0.75 (wang), -2 (power)."""
    curvature: float | None = Field(None, ge=0.3, le=1)
    """cpw: 1 is the mean. Usual: 0.71."""
    count: int | None = Field(None, ge=1, le=10)
    """norm: uniform numbers averaged. 1 is the mean. Usual: 3."""
    weight: float | None = None
    """mean_variance: of the variance; mixed_var: of the lower tail."""
    beta: float | None = None
    """entropic: below 0 averse. In 1 / units of return."""
    low: float | None = Field(None, gt=0, lt=1)
    """mixed_var: where the lower tail ends."""
    high: float | None = Field(None, gt=0, le=1)
    """mixed_var: where the ignored upper tail begins."""

    @model_validator(mode="after")
    def _check(self) -> RiskConfig:
        options = check_keys("risk measure", self.name, RISKS, self._given())
        if self.name == "mixed_var":
            if options["low"] >= options["high"]:
                raise ConfigError(
                    f"mixed_var: low is {options['low']} and high {options['high']}; expected low < high."
                )
            if options["weight"] < 0:
                raise ConfigError(f"mixed_var: weight is {options['weight']}; expected at least 0.")
        return self

    def options(self) -> Options:
        """Keyword arguments of the measure: what was set, over its defaults."""
        return {**RISKS.get(self.name, {}), **self._given()}


def check_keys(kind: str, name: str, table: Mapping[str, Options], given: Options) -> Options:
    """Fill in the defaults of `name`; user classes (names with a colon) pass unchecked."""
    if ":" in name:
        return dict(given)
    if name not in table:
        raise ConfigError(unknown(kind, name, table))
    for key in given:
        if key not in table[name]:
            keys = ", ".join(table[name])
            raise ConfigError(f"{kind} {name} has no key {key!r}.", f"Its keys: {keys}." if keys else "It has none.")
    return {**table[name], **given}


def _one_of(key: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise ConfigError(unknown(key, value, known))
