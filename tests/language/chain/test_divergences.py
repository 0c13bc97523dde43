"""KL estimators: values by hand, and expected gradients by enumerating every token of a categorical."""

from __future__ import annotations

import math

import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.language.chain import divergences as d
from tests.support.llm_cases import gradient, rows

ONE = torch.ones(1, 1, dtype=torch.bool)
LOGITS = rows(0.3, -0.8, 1.1, 0.0, -0.4)
REF = rows(-0.5, 0.9, 0.2, 0.1, -1.0)
OLD = rows(0.1, -0.2, 0.6, -0.7, 0.4)


def at(x: float) -> torch.Tensor:
    return torch.tensor([[x]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("estimator", "change", "value"),
    [
        (d.k1, math.log(2), 0.69315),
        (d.k1_score, math.log(2), 0.69315),
        (d.k2, math.log(2), 0.24023),
        (d.k3, math.log(2), 0.19315),
        (d.k3, -math.log(2), 0.30685),
    ],
)
def test_values(estimator, change, value):
    assert estimator(at(-1.0), at(-1.0 - change), ONE).item() == pytest.approx(value, abs=5e-6)


def expected_gradient(estimator, old: torch.Tensor, **options) -> torch.Tensor:
    """Expectation over tokens of `old` of the gradient of a per-token loss with respect to the logits."""
    every = torch.arange(5)
    mask = torch.ones(5, 1, dtype=torch.bool)

    def loss(logits):
        logp = torch.log_softmax(logits, -1)[every, None]
        ref = torch.log_softmax(REF, -1)[every, None]
        terms = estimator(logp, ref, mask, torch.log_softmax(old, -1)[every, None], **options)
        return (torch.softmax(old, -1)[:, None].detach() * terms).sum()

    return gradient(loss, LOGITS)[0]


def exact_kl(logits: torch.Tensor, ref_logits: torch.Tensor, forward: bool = False) -> torch.Tensor:
    """KL(pi || ref), or with `forward` KL(ref || pi), over the whole vocabulary."""
    p, q = torch.log_softmax(logits, -1), torch.log_softmax(ref_logits, -1)
    return (q.exp() * (q - p)).sum(-1) if forward else (p.exp() * (p - q)).sum(-1)


REVERSE = gradient(lambda x: exact_kl(x, REF), LOGITS)[0]
FORWARD = gradient(lambda x: exact_kl(x, REF, forward=True), LOGITS)[0]


@pytest.mark.parametrize("old", [LOGITS, OLD], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize(
    ("estimator", "importance", "exact"),
    [
        (d.k1, "live", REVERSE),
        (d.k1_score, "stopped", REVERSE),
        (d.k2, "stopped", REVERSE),
        (d.k3, "live", REVERSE),
        (d.k3, "stopped", FORWARD),
    ],
)
def test_expected_gradients(estimator, importance, exact, old):
    torch.testing.assert_close(expected_gradient(estimator, old, importance=importance), exact)


def test_what_the_wrong_placement_does():
    torch.testing.assert_close(expected_gradient(d.k3, LOGITS, importance="none"), FORWARD)
    spurious = expected_gradient(d.k2, OLD, importance="live") - REVERSE
    assert spurious.abs().max() > 1e-3  # k2 grad log pi
    with pytest.raises(ConfigError, match="zero expected gradient"):
        d.k1(at(0.0), at(0.0), ONE, importance="none")
    with pytest.raises(ConfigError, match="maybe"):
        d.k3(at(0.0), at(0.0), ONE, importance="maybe")


@pytest.mark.parametrize("estimator", [d.k1, d.k1_score, d.k2, d.k3, d.rapo_forward_kl])
def test_off_the_mask_nothing_counts(estimator):
    mask = torch.tensor([[True, False]])
    logp, ref = torch.tensor([[-1.0, -torch.inf]]), torch.tensor([[-2.0, torch.nan]])
    assert estimator(logp, ref, mask)[0, 1] == 0
    assert torch.isfinite(gradient(lambda x: estimator(x, ref, mask), logp)[0]).all()


@pytest.mark.parametrize(("w", "value"), [(1.0, 0.0), (2.0, 0.38629), (0.5, 0.15343)])
def test_rapo_values(w, value):
    assert d.rapo_forward_kl(at(-1.0), at(-1.0 + math.log(w)), ONE).item() == pytest.approx(value, abs=5e-6)


@pytest.mark.parametrize("old", [LOGITS, OLD], ids=["on-policy", "off-policy"])
def test_rapo_has_the_forward_kls_gradient(old):
    torch.testing.assert_close(expected_gradient(d.rapo_forward_kl, old), FORWARD)


def test_rapo_estimates_the_forward_kl():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(torch.softmax(LOGITS, -1), 1_000_000, replacement=True, generator=generator)
    logp, ref = torch.log_softmax(LOGITS, -1)[drawn, None], torch.log_softmax(REF, -1)[drawn, None]
    mean = d.rapo_forward_kl(logp, ref, torch.ones_like(logp, dtype=torch.bool)).mean().item()
    assert mean == pytest.approx(exact_kl(LOGITS, REF, forward=True).item(), rel=0.01)


def test_rapo_reference():
    phi = d.rapo_trust(rows(0.0, 1.0))
    assert phi.tolist() == [0.5, 1.0]
