"""Drawing tokens: the inverse of the cumulative distribution, with and without truncation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.language.engines import SamplingOptions
from distrl.language.engines.token_sampling import draw
from distrl.language.models.token_logp import truncation


def plain(logits: np.ndarray, uniform: float, options: SamplingOptions) -> tuple[int, float]:
    """One row in float64, by the book."""
    logits = logits.astype(np.float64) / options.temperature
    keep = truncation(torch.from_numpy(logits)[None], options.top_p, options.top_k)[0].numpy()
    weights = np.where(keep, np.exp(logits - logits.max()), 0.0)
    probabilities = weights / weights.sum()
    token = int(np.searchsorted(probabilities.cumsum(), uniform, side="right"))
    return token, float(np.log(probabilities[token]))


CASES = [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.8}, {"temperature": 1.5, "top_k": 40, "top_p": 0.7}]


@pytest.mark.parametrize("vocabulary", [7, 256, 1000, 5000])
@pytest.mark.parametrize("case", CASES)
def test_inverse_of_the_cumulative_distribution(vocabulary, case):
    options = SamplingOptions(**case)
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(40, vocabulary, generator=generator) * 3
    uniforms = torch.rand(40, generator=generator, dtype=torch.float64)
    drawn = draw(logits, uniforms, options)
    for row in range(40):
        token, logp = plain(logits[row].numpy(), float(uniforms[row]), options)
        assert int(drawn.tokens[row]) == token
        assert float(drawn.logp[row]) == pytest.approx(logp, abs=2e-5)
    if options.truncates:
        keep = truncation(logits / options.temperature, options.top_p, options.top_k)
        for row, ids in enumerate(drawn.support):
            assert ids.tolist() == keep[row].nonzero().flatten().tolist()
    else:
        assert drawn.support is None


def test_frequencies_are_the_distribution():
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().expand(20_000, -1)
    uniforms = torch.from_numpy(np.random.default_rng(0).random(20_000))
    share = torch.bincount(draw(logits, uniforms, SamplingOptions()).tokens, minlength=4) / 20_000
    np.testing.assert_allclose(share, [0.1, 0.2, 0.3, 0.4], atol=0.012)


@pytest.mark.parametrize("vocabulary", [3, 600])
def test_tokens_without_probability_are_never_drawn(vocabulary):
    logits = torch.full((4, vocabulary), -torch.inf)
    logits[:, 1] = 0.0
    uniforms = torch.tensor([0.0, 0.5, 1 - 2**-53, 1e-300], dtype=torch.float64)
    drawn = draw(logits, uniforms, SamplingOptions(entropy=True))
    assert drawn.tokens.tolist() == [1, 1, 1, 1]
    assert drawn.logp.abs().max() < 1e-6
    assert drawn.entropy.abs().max() < 1e-6


def test_a_flat_distribution_falls_back_to_sorting_everything():
    logits = torch.zeros(2, 4000)
    drawn = draw(logits, torch.tensor([0.0, 0.999], dtype=torch.float64), SamplingOptions(top_p=0.5))
    assert [len(ids) for ids in drawn.support] == [2000, 2000]
    torch.testing.assert_close(drawn.logp, torch.full((2,), -np.log(2000.0), dtype=torch.float32))


def test_temperature_zero_takes_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    drawn = draw(logits, torch.tensor([0.99], dtype=torch.float64), SamplingOptions(temperature=0.0, top_p=0.5))
    assert (drawn.tokens.item(), drawn.logp.item(), drawn.support) == (1, 0.0, None)


def test_entropy_of_the_distribution_that_is_drawn_from():
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(0)) * 2
    uniforms = torch.full((5,), 0.3, dtype=torch.float64)
    for options in (SamplingOptions(temperature=0.7, entropy=True), SamplingOptions(top_k=9, entropy=True)):
        scaled = (logits / options.temperature).masked_fill(
            ~truncation(logits, options.top_p, options.top_k), -torch.inf
        )
        want = torch.distributions.Categorical(logits=scaled).entropy()
        torch.testing.assert_close(draw(logits, uniforms, options).entropy, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}, {"max_new_tokens": 0}]
)
def test_options_out_of_range(wrong):
    with pytest.raises(ConfigError, match="out of range"):
        SamplingOptions(**wrong)
