"""Packed rows against rows one by one: values, gradients, and that no token sees another row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from distrl.language.models.packing import can_pack, pack, packed_features
from distrl.language.models.token_logp import Scoring, token_logp
from tests.language.engines.test_transformers import other_architecture
from tests.language.models.language_cases import ragged, support_of, tiny

LENGTHS = [9, 7, 5, 12, 6, 8]


@pytest.fixture(scope="module")
def model():
    return tiny()


def grouped(vocabulary: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two prompts (5 and 3 tokens, the first 2 in common) with three answers each; one row has a gap in its mask."""
    stem = ragged([2], vocabulary, seed)[0]
    prompts = [torch.cat([stem, rest]) for rest in ragged([3, 1], vocabulary, seed + 1)]
    answers = ragged([4, 1, 7, 2, 6, 3], vocabulary, seed + 2)
    rows = [torch.cat([prompts[row // 3], answer]) for row, answer in enumerate(answers)]
    tokens = pad_sequence(rows, batch_first=True)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, sequence in enumerate(rows):
        mask[row, len(prompts[row // 3]) : len(sequence)] = True
    mask[2, 7] = False
    return tokens, mask


def unrelated(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that share nothing, scored from their third token on; one of them not at all."""
    rows = ragged(LENGTHS, vocabulary)
    tokens = pad_sequence(rows, batch_first=True)
    columns = torch.arange(tokens.shape[1])
    mask = (columns >= 2) & (columns < torch.tensor(LENGTHS)[:, None])
    mask[4] = False
    return tokens, mask


def gradients(model, tokens, mask, packing: bool, **options) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    weight = torch.linspace(-1, 1, mask.numel()).view(mask.shape)
    model.zero_grad()
    logp, entropy = token_logp(model, tokens, mask, Scoring(entropy=True, **options), packing=packing)
    ((logp * weight).sum() + 0.3 * entropy.sum()).backward()
    return logp.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_packing_changes_nothing(model, tokens, mask, **options) -> None:
    plain_logp, plain = gradients(model, tokens, mask, False, **options)
    packed_logp, packed = gradients(model, tokens, mask, True, **options)
    assert float(plain_logp[mask].std()) > 0.2  # distributions that differ
    torch.testing.assert_close(packed_logp, plain_logp, rtol=1e-5, atol=1e-5)
    assert packed.keys() == plain.keys()
    whole = torch.cat([plain[name].flatten() for name in plain])
    error = torch.cat([(packed[name] - plain[name]).flatten() for name in plain])
    assert float(error.norm()) <= 1e-5 * float(whole.norm())


@pytest.mark.parametrize("lay_out", [grouped, unrelated])
@pytest.mark.parametrize("lora", [None, {"rank": 3}], ids=["full", "lora"])
def test_gradients_equal_those_without(lay_out, lora):
    model = tiny(lora=lora)
    assert_packing_changes_nothing(model, *lay_out(model.tokenizer.vocab_size))


def test_gradients_equal_with_checkpointing_temperature_and_support(model):
    tokens, mask = grouped(model.tokenizer.vocab_size)
    generator = np.random.default_rng(0)
    lists = [generator.choice(model.tokenizer.vocab_size, 6, replace=False) for _ in range(int(mask.sum()))]
    assert_packing_changes_nothing(model, tokens, mask, temperature=0.7, support=support_of(lists), chunk=5)
    checkpointed = tiny(gradient_checkpointing=True)
    assert_packing_changes_nothing(checkpointed, tokens, mask)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "qwen2", "grouped_llama"])
def test_other_architectures(kind):
    model = other_architecture(kind)
    assert can_pack(model)
    assert_packing_changes_nothing(model, *grouped(model.tokenizer.vocab_size))


def test_common_beginnings_are_there_once(model):
    tokens, mask = grouped(model.tokenizer.vocab_size)
    packed = pack(tokens, mask, 100)
    # 2 common tokens, 3 and 1 of the prompts, and of each answer all tokens but its last
    assert packed.tokens.shape == (1, 2 + 3 + 1 + 3 + 0 + 6 + 1 + 5 + 2)
    narrow = pack(tokens, mask, 1)
    assert narrow.tokens.shape[1] == 11  # the longest row decides
    assert int(narrow.visible().sum(2).max()) <= 11


def test_every_token_sees_its_own_row_and_nothing_else(model):
    """The tokens that a position sees, read from left to right, are the beginning of its row."""
    for tokens, mask in (grouped(model.tokenizer.vocab_size), unrelated(model.tokenizer.vocab_size)):
        for width in (1, 16, 1000):
            packed = pack(tokens, mask, width)
            visible = packed.visible()
            rows, columns = mask.nonzero(as_tuple=True)
            for place, row, column in zip(packed.before.tolist(), rows.tolist(), columns.tolist(), strict=True):
                number, at = divmod(place, packed.tokens.shape[1])
                seen = visible[number, at]
                assert packed.tokens[number][seen].tolist() == tokens[row, :column].tolist()
                assert packed.positions[number][seen].tolist() == list(range(column))


@pytest.mark.parametrize("lay_out", [grouped, unrelated])
def test_another_row_changes_nothing(model, lay_out):
    tokens, mask = lay_out(model.tokenizer.vocab_size)
    before, _ = token_logp(model, tokens, mask, packing=True)
    changed = tokens.clone()
    answer = mask[3].nonzero().squeeze(1)
    changed[3, answer[0]] = (changed[3, answer[0]] + 1) % model.tokenizer.vocab_size
    after, _ = token_logp(model, changed, mask, packing=True)
    others = torch.arange(len(tokens)) != 3
    torch.testing.assert_close(after[others], before[others], rtol=0, atol=1e-6)
    assert float((after[3] - before[3]).abs().max()) > 1e-3


def test_a_row_has_no_gradient_from_the_tokens_of_others(model):
    tokens, mask = unrelated(model.tokenizer.vocab_size)
    embedded = []
    handle = model.network.get_input_embeddings().register_forward_hook(
        lambda module, args, out: embedded.append(out) or out.retain_grad()
    )
    try:
        logp, _ = token_logp(model, tokens, mask, packing=True)
    finally:
        handle.remove()
    logp[0].sum().backward()
    moved = embedded[0].grad.abs().sum(-1) > 0
    packed = pack(tokens, mask, model.config.hidden_size)
    assert sorted(packed.tokens[moved].tolist()) == sorted(tokens[0, : LENGTHS[0] - 1].tolist())


def test_nothing_to_score(model):
    tokens = torch.tensor([[3, 4], [5, 6]])
    mask = torch.zeros(2, 2, dtype=torch.bool)
    logp, entropy = token_logp(model, tokens, mask, Scoring(entropy=True), packing=True)
    assert not logp.any()
    assert not entropy.any()
    assert packed_features(model, tokens, mask).shape == (0, 32)


def test_a_model_that_ignores_positions_is_found_out(model, monkeypatch):
    assert can_pack(model)
    hidden = type(model).hidden
    monkeypatch.setattr(type(model), "hidden", lambda self, tokens, positions=None, visible=None: hidden(self, tokens))
    assert not can_pack(model)
