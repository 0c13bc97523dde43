"""Scoring in chunks of masked positions against the plain computation over full logits, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distrl.language.models.token_logp import Scoring, token_logp, truncation
from tests.language.models.language_cases import ragged, support_of, tiny


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def batch(model):
    """Three rows of 9, 7 and 5 tokens, filled up on the right; the first 2 tokens of each are its prompt."""
    rows = ragged([9, 7, 5], model.tokenizer.vocab_size)
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.tokenizer.pad_id)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, sequence in enumerate(rows):
        mask[row, 2 : len(sequence)] = True
    mask[0, 4] = False  # a forced token in between
    return tokens, mask


def plain(model, tokens, mask, temperature=1.0, allowed=None):
    """Log-probability and entropy from transformers' own full logits."""
    logits = model.network(input_ids=tokens, use_cache=False).logits[:, :-1] / temperature
    if allowed is not None:
        logits = logits.masked_fill(~allowed[:, 1:], -torch.inf)
    logp = logits.log_softmax(-1)
    entropy = -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(-1)
    scored = logp.gather(-1, tokens[:, 1:, None]).squeeze(-1).masked_fill(~mask[:, 1:], 0.0)
    pad = torch.zeros(len(tokens), 1)
    return torch.cat([pad, scored], 1), torch.cat([pad, entropy.masked_fill(~mask[:, 1:], 0.0)], 1)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same_gradients(one, two, tolerance=1e-5):
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(
            one[name], two[name], rtol=1e-4, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("chunk", [None, 1, 4, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunks_equal_full_logits_and_their_gradients(model, batch, chunk, temperature):
    tokens, mask = batch
    weight = torch.linspace(-1, 1, mask.numel()).view(mask.shape)
    logp, entropy = token_logp(model, tokens, mask, Scoring(temperature=temperature, chunk=chunk, entropy=True))
    want_logp, want_entropy = plain(model, tokens, mask, temperature)
    torch.testing.assert_close(logp, want_logp, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, want_entropy, rtol=1e-5, atol=1e-5)
    assert float(want_logp.detach().std()) > 0.5  # distributions that differ: a test on uniform ones would prove little
    ours = gradients(model, (logp * weight).sum() + 0.3 * entropy.sum())
    assert_same_gradients(ours, gradients(model, (want_logp * weight).sum() + 0.3 * want_entropy.sum()))


def test_every_row_may_have_its_own_temperature(model, batch):
    tokens, mask = batch
    heats = torch.tensor([0.7, 1.0, torch.inf])
    for chunk in (None, 4):
        logp, entropy = token_logp(model, tokens, mask, Scoring(temperature=heats, chunk=chunk, entropy=True))
        for row, heat in enumerate(heats.tolist()):
            one = slice(row, row + 1)
            want_logp, want_entropy = plain(model, tokens[one], mask[one], heat)
            torch.testing.assert_close(logp[one], want_logp, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(entropy[one], want_entropy, rtol=1e-4, atol=1e-5)


def test_recorded_support_renormalizes(model, batch):
    tokens, mask = batch
    generator = np.random.default_rng(0)
    targets, lists = tokens[mask].tolist(), []
    allowed = torch.ones(*mask.shape, model.tokenizer.vocab_size, dtype=torch.bool)
    for place, target in zip(mask.nonzero().tolist(), targets, strict=True):
        if len(lists) % 3 == 2:
            lists.append(None)
            continue
        others = generator.choice(model.tokenizer.vocab_size, 4, replace=False)
        lists.append(np.union1d(others, [target]))
        allowed[tuple(place)] = False
        allowed[tuple(place)][torch.from_numpy(lists[-1])] = True
    for chunk in (None, 3):
        logp, entropy = token_logp(model, tokens, mask, Scoring(support=support_of(lists), chunk=chunk, entropy=True))
        want_logp, want_entropy = plain(model, tokens, mask, allowed=allowed)
        torch.testing.assert_close(logp, want_logp, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(entropy, want_entropy, rtol=1e-5, atol=1e-5)
        assert_same_gradients(
            gradients(model, logp.sum() + entropy.sum()), gradients(model, want_logp.sum() + want_entropy.sum())
        )
    assert bool((logp[mask] >= token_logp(model, tokens, mask)[0][mask] - 1e-6).all())


def test_a_token_alone_in_its_support_has_probability_one(model, batch):
    tokens, mask = batch
    lists = [np.array([token]) for token in tokens[mask].tolist()]
    logp, entropy = token_logp(model, tokens, mask, Scoring(support=support_of(lists), entropy=True))
    assert float(logp.abs().max()) < 1e-6
    assert float(entropy.abs().max()) < 1e-6


def test_truncation_keeps_the_smallest_set():
    logits = torch.tensor([[0.5, 0.2, 0.2 - 1e-6, 0.1], [0.97, 0.01, 0.01, 0.01]]).log()
    assert truncation(logits, top_p=0.6).tolist() == [[True, True, False, False], [True, False, False, False]]
    assert truncation(logits, top_k=3)[0].tolist() == [True, True, True, False]
    # top-k first: of the two likeliest, 0.5 / 0.7 alone is more than 0.7
    assert truncation(logits, top_p=0.7, top_k=2)[0].tolist() == [True, False, False, False]


def test_own_truncation_never_excludes_the_scored_token(model, batch):
    tokens, mask = batch
    logp, _ = token_logp(model, tokens, mask, Scoring(top_k=1))
    assert bool(torch.isfinite(logp).all())
    # with top_k=1 a token is alone, or shares its support with the likeliest one
    allowed = truncation(model.network(input_ids=tokens).logits.flatten(0, 1), top_k=1).view(*tokens.shape, -1)
    allowed = torch.cat([torch.zeros_like(allowed[:, :1]), allowed[:, :-1]], 1).scatter(-1, tokens[..., None], True)
    torch.testing.assert_close(logp, plain(model, tokens, mask, allowed=allowed)[0], rtol=1e-5, atol=1e-5)


def test_nothing_to_score(model, batch):
    tokens, _ = batch
    logp, entropy = token_logp(model, tokens, torch.zeros(tokens.shape, dtype=torch.bool), Scoring(entropy=True))
    assert logp.shape == tokens.shape
    assert not logp.any()
    assert not entropy.any()


def test_first_token_is_refused(model, batch):
    tokens, _ = batch
    with pytest.raises(ValueError, match="first token"):
        token_logp(model, tokens, torch.ones(tokens.shape, dtype=torch.bool))


def test_padding_changes_nothing(model):
    (sequence,) = ragged([6], model.tokenizer.vocab_size, seed=2)
    mask = torch.ones(1, 6, dtype=torch.bool)
    mask[:, 0] = False
    want, _ = token_logp(model, sequence[None], mask)
    tokens = torch.nn.functional.pad(sequence[None], (0, 5), value=model.tokenizer.pad_id)
    logp, _ = token_logp(model, tokens, torch.nn.functional.pad(mask, (0, 5)))
    torch.testing.assert_close(logp[:, :6], want, rtol=1e-5, atol=1e-6)


def test_full_logits_never_exist(model, batch):
    """The largest tensor that autograd keeps for the backward pass is far smaller than all logits."""
    tokens = torch.randint(2, 16, (4, 200))
    mask = torch.ones(tokens.shape, dtype=torch.bool)
    mask[:, 0] = False
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: shapes.append(tuple(kept.shape)) or kept, lambda k: k):
        token_logp(model, tokens, mask, Scoring(chunk=16))
    assert shapes
    assert not [shape for shape in shapes if shape and shape[-1] == model.tokenizer.vocab_size and len(shape) == 2 and
                shape[0] > 16 and shape[0] != model.config.hidden_size]  # fmt: skip
