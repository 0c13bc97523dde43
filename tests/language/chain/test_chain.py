"""The links together: found by name, called on columns, split without a difference."""

from __future__ import annotations

import pytest
import torch

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.advantages.group import grpo
from distrl.language.chain.component import component
from distrl.language.chain.objective import LOSS_LEVELS, objective
from tests.support.llm_cases import gradient, ids, rows

LINKS = ["reward", "credit", "advantage", "behavior_correction", "divergence", "aggregation", *LOSS_LEVELS]


def batch() -> Columns:
    generator = torch.Generator().manual_seed(0)
    logp, old, ref, behavior = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64) - 1.0
    mask = torch.rand(6, 5, generator=generator) < 0.7
    mask[4] = False
    return Columns(
        mask=mask,
        logp=logp,
        old_logp=logp + 0.1 * old,
        ref_logp=ref,
        behavior_logp=logp + 0.1 * behavior,
        reward=rows(1, 0, 0.5, 1, 0, 1),
        group=ids(3, 3, 3, 8, 8, 8),
        correct=torch.tensor([True, False, False, True, False, True]),
    )


def test_every_link_names_its_columns_and_options():
    for point in LINKS:
        for method in register.methods(point):
            found = component(point, method.name, supplied=("entropy", "improvement", "max_length"))
            assert found.reads or found.may_read, method.name
            assert method.line, method.name


def test_names_of_losses_are_unique():
    names = [method.name for point in LOSS_LEVELS for method in register.methods(point)]
    assert len(names) == len(set(names))


def test_a_link_is_its_function_on_columns():
    b = batch()
    torch.testing.assert_close(component("advantage", "grpo")(b), grpo(b.reward, b.group))
    torch.testing.assert_close(component("advantage", {"name": "grpo", "ddof": 0})(b), grpo(b.reward, b.group, ddof=0))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("grppo", "did you mean 'grpo'"),
        ({"name": "grpo", "ddoff": 0}, "did you mean 'ddof'"),
        ({"ddof": 0}, "does not say which"),
        ({"name": "grpo", "unit": "turn"}, "unknown unit"),
        ({"name": "token_gae", "unit": "episode"}, "works on tokens"),
        ("pipo", "needs improvement"),
    ],
)
def test_wrong_words_are_named(word, message):
    with pytest.raises(ConfigError, match=message):
        component("advantage", word)


def test_missing_columns_are_named():
    with pytest.raises(ConfigError, match="reads group, and the batch has reward"):
        component("advantage", "grpo")(Columns(reward=rows(1, 0)))
    with pytest.raises(ConfigError, match="reads episode"):
        component("advantage", {"name": "grpo", "unit": "episode"})(batch())


def test_numbers_of_the_run_reach_the_links_that_take_them():
    b = batch().with_(previous_advantage=rows(1, 2, 3, 4, 5, 6))
    supplied = ("improvement", "entropy")
    half = component("advantage", "pipo", supplied)(b, improvement=0.5, entropy=1.0)
    assert half.tolist() == [0.5, 1, 1.5, 2, 2.5, 3]
    torch.testing.assert_close(
        component("advantage", "rloo", supplied)(b, improvement=0.5), component("advantage", "rloo")(b)
    )


def test_an_episode_counts_once_however_many_rows_it_has():
    # episode 10 was trained as three rows
    b = Columns(reward=rows(1, 1, 1, 0), group=ids(0, 0, 0, 0), episode=ids(10, 10, 10, 11))
    by_row = component("advantage", "dr_grpo")(b)
    by_episode = component("advantage", {"name": "dr_grpo", "unit": "episode"})(b)
    assert by_row.tolist() == [0.25, 0.25, 0.25, -0.75]
    assert by_episode.tolist() == [0.5, 0.5, 0.5, -0.5]


CHAINS = [
    {"word": "token_ppo", "aggregation": "token_mean", "divergence": "k3", "beta": 0.1, "correction": "tis"},
    {"word": {"name": "cispo", "clip_high": 2.0}, "aggregation": "seq_mean_token_mean"},
    {"word": "gspo", "divergence": "k2", "beta": 0.05},
    {"word": {"name": "drpo", "max_length": 5}, "aggregation": "seq_mean_token_mean"},
    {"word": "rebel", "aggregation": "group_mean"},
]


@pytest.mark.parametrize("words", CHAINS, ids=lambda words: str(words["word"]))
def test_parts_of_a_minibatch_add_up(words):
    chain = objective(**words)
    b = batch().with_(advantage=component("advantage", "grpo")(batch()))
    assert chain.reads() <= set(b)
    whole = chain.weights(b)

    def total(logp):
        return chain.loss(whole.with_(logp=logp))

    def split(logp):
        parts = [whole.with_(logp=logp)[rows_] for rows_ in (ids(3, 4, 5), ids(0, 1, 2))]
        return sum(chain.loss(part) for part in parts)

    torch.testing.assert_close(split(b.logp), total(b.logp))
    torch.testing.assert_close(gradient(split, b.logp)[0], gradient(total, b.logp)[0])
    assert gradient(total, b.logp)[0].abs().sum() > 0
    assert torch.all(gradient(total, b.logp)[0][~b.mask] == 0)


def test_what_follows_the_objective_counts():
    b = batch().with_(advantage=component("advantage", "grpo")(batch()))

    def loss(**words):
        chain = objective("token_ppo", **words)
        return chain.loss(chain.weights(b)).item()

    m = b.mask
    weight = (b.old_logp - b.behavior_logp).exp().clamp(max=1.05)[m]
    terms = component("token_loss", "token_ppo")(b)[m]
    assert loss(correction={"name": "tis", "cap": 1.05}) == pytest.approx((weight * terms).mean().item())
    d = (b.logp - b.ref_logp)[m]
    assert loss(divergence="k3", beta=0.1) == pytest.approx((terms + 0.1 * ((-d).exp() - 1 + d)).mean().item())


def test_what_does_not_fit_is_named():
    with pytest.raises(ConfigError, match="did you mean 'gspo'"):
        objective("gsppo")
    with pytest.raises(ConfigError, match="a correction is for token losses"):
        objective("gspo", correction="tis")
    with pytest.raises(ConfigError, match="drpo needs max_length"):
        objective("drpo")


def test_dapo_from_words():
    """-min(ratio A, clip(ratio, .8, 1.28) A) averaged over tokens, without a KL term."""
    chain = objective({"name": "token_ppo", "clip_high": 0.28}, aggregation="token_mean")
    b = batch().with_(advantage=component("advantage", "grpo")(batch()))
    terms = []
    for n, t in b.mask.nonzero().tolist():
        ratio, a = (b.logp[n, t] - b.old_logp[n, t]).exp().item(), b.advantage[n].item()
        terms.append(-min(ratio * a, min(max(ratio, 0.8), 1.28) * a))
    assert chain.loss(chain.weights(b)).item() == pytest.approx(sum(terms) / len(terms))
