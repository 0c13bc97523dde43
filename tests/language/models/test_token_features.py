"""Functions of logits in chunks, and masked tokens side by side."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from distrl.language.models.token_features import compact_mask, each_chunk, spread, token_features
from distrl.language.models.token_logp import token_logp
from tests.support.tiny_worlds import TinyWorld

MASK = torch.tensor([[False, True, False, True], [False, False, False, True], [False, False, False, False]])


def test_masked_tokens_side_by_side() -> None:
    assert compact_mask(MASK).tolist() == [[True, True], [True, False], [False, False]]
    values = torch.tensor([1.0, 2.0, 3.0])
    assert spread(values, MASK).tolist() == [[0, 1, 0, 2], [0, 0, 0, 3], [0, 0, 0, 0]]
    assert spread(values, compact_mask(MASK)).tolist() == [[1, 2], [3, 0], [0, 0]]
    pairs = torch.stack([values, -values], 1)
    assert spread(pairs, compact_mask(MASK)).tolist() == [[[1, -1], [2, -2]], [[3, -3], [0, 0]], [[0, 0], [0, 0]]]
    assert compact_mask(torch.zeros(0, 4, dtype=torch.bool)).shape == (0, 0)


def test_features_are_those_of_the_token_before() -> None:
    made = TinyWorld({"name": "grpo"})
    batch, model = made.batch(), made.algorithm.language
    last = batch.mask & (batch.mask.flip(1).cumsum(1).flip(1) == 1)
    longer = F.pad(batch.mask, (0, 1)) | F.pad(last, (1, 0))  # and the token that would come after each row
    for mask in (batch.mask, longer):
        for packing in (False, True):
            found = token_features(model, batch.tokens, mask, packing)
            assert len(found) == int(mask.sum())
            for (row, column), state in zip(mask.nonzero().tolist(), found, strict=True):
                prefix = model.hidden(batch.tokens[row : row + 1, :column])
                assert torch.allclose(state, prefix[0, -1], atol=1e-4)


def test_chunks_change_neither_values_nor_gradients() -> None:
    made = TinyWorld({"name": "grpo"})
    batch, model = made.batch(), made.algorithm.language

    def distribution(logits: torch.Tensor, targets: torch.Tensor, begin: int) -> tuple[torch.Tensor, torch.Tensor]:
        return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1), begin + torch.arange(len(targets))

    gradients = []
    for chunk in (None, 5):
        features = token_features(model, batch.tokens, batch.mask)
        logp, place = each_chunk(model, features, batch.tokens[batch.mask], distribution, chunk)
        assert place.tolist() == list(range(int(batch.mask.sum())))
        assert torch.allclose(spread(logp, batch.mask), token_logp(model, batch.tokens, batch.mask)[0], atol=1e-6)
        gradients.append(made.slow_gradient(logp.square().sum()))
    assert float(gradients[0].norm()) > 0
    assert torch.allclose(*gradients, atol=1e-5)
    nothing = each_chunk(model, torch.zeros(0, 32), torch.zeros(0, dtype=torch.int64), distribution)
    assert [len(column) for column in nothing] == [0, 0]
