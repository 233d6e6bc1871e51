"""The attentive probe: it finds what a mean hides, and looks at no patch that is not there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from mmssl.evaluation import attentive, embedding, tasks
from mmssl.evaluation.attentive import AttentiveProbe, attentive_logits, fit_attentive
from mmssl.evaluation.embedding import Collector, Embedded
from mmssl.modality import Batch
from mmssl.models.modeling_mmssl import MMSSLOutput


def hidden_in_one_token(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """12 tokens of 8 numbers, of which one, marked by its first number, says in its second which of two classes."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(n, 12, 8, generator=generator)
    y = torch.randint(2, (n,), generator=generator)
    place = torch.randint(12, (n,), generator=generator)
    tokens[torch.arange(n), place, 0] = 6.0
    tokens[torch.arange(n), place, 1] = y * 2.0 - 1.0
    return tokens, y


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attentive, "FEWEST", 4)
    monkeypatch.setattr(attentive, "MOST", 8)


def test_it_finds_the_token_that_a_mean_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attentive, "MOST", 200)
    monkeypatch.setattr(attentive, "RATES", (3e-3,))
    monkeypatch.setattr(attentive, "DECAYS", (0.1,))
    (tokens, y), (test, truth) = hidden_in_one_token(500, 0), hidden_in_one_token(400, 1)
    probe = fit_attentive(tokens, y, 2)
    found = float((attentive_logits(probe, test).argmax(1) == truth).double().mean())
    linear = LogisticRegression(max_iter=500).fit(tokens.mean(1), y).score(test.mean(1), truth)
    assert linear < 0.75 and found > linear + 0.15, (found, linear)


def test_what_is_not_there_is_not_looked_at(short: None) -> None:
    tokens, y = hidden_in_one_token(60, 0)
    longer = torch.nn.functional.pad(tokens, (0, 0, 0, 5), value=torch.nan)
    probe, same = fit_attentive(tokens, y, 2), fit_attentive(longer, y, 2)
    torch.testing.assert_close(attentive_logits(probe, tokens), attentive_logits(same, longer))
    fewer = longer.clone()
    fewer[:, 3:] = torch.nan
    torch.testing.assert_close(attentive_logits(probe, fewer), attentive_logits(probe, tokens[:, :3]))


def test_an_encoders_scale_and_what_ran_before_do_not_count(short: None) -> None:
    tokens, y = hidden_in_one_token(60, 0)
    torch.manual_seed(5)
    logits = attentive_logits(fit_attentive(tokens, y, 2, seed=3), tokens)
    torch.manual_seed(6)
    drawn = torch.get_rng_state()
    other = tokens * torch.linspace(0.1, 50, 8) + 7
    torch.testing.assert_close(attentive_logits(fit_attentive(other, y, 2, seed=3), other), logits, atol=1e-4, rtol=0)
    assert torch.equal(torch.get_rng_state(), drawn), "it draws from a generator of its own"
    assert not torch.equal(attentive_logits(fit_attentive(tokens, y, 2, seed=4), tokens), logits)


def test_the_setting_is_the_one_that_does_best_on_held_out_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, y = hidden_in_one_token(50, 0)
    tried: list[tuple[float, float, int]] = []
    fit = attentive._Fitting.fit

    def watched(self: attentive._Fitting, rows: Tensor, decay: float, rate: float) -> AttentiveProbe:
        tried.append((decay, rate, len(rows)))
        return fit(self, rows, decay, 0.0)

    scores = iter([0.5, 0.9, 0.7, 0.9, 0.1, 0.2])
    monkeypatch.setattr(attentive, "FEWEST", 1)
    monkeypatch.setattr(attentive, "MOST", 1)
    monkeypatch.setattr(attentive._Fitting, "fit", watched)
    scored = attentive._Fitting.scored

    def said(self: attentive._Fitting, rows: Tensor, held: Tensor, decay: float, rate: float) -> float:
        assert not set(rows.tolist()) & set(held.tolist()) and len(rows) + len(held) == 50
        scored(self, rows, held, decay, rate)
        return next(scores)

    monkeypatch.setattr(attentive._Fitting, "scored", said)
    fit_attentive(tokens, y, 2)
    assert len(tried) == 7 and tried[-1] == (3.0, 1e-3, 50), "of equal scores the more regularised, on all rows"
    with pytest.raises(ValueError, match="two classes"):
        fit_attentive(tokens, torch.zeros(50, dtype=torch.long), 2)


def test_the_moments_are_those_of_the_patches_that_are_there() -> None:
    tokens = hidden_in_one_token(600, 0)[0]
    tokens[::3, 4:] = torch.nan
    tokens[..., 7] = 3.0
    rows = torch.arange(0, 600, 2)
    mean, deviation = attentive._moments(tokens, rows)
    seen = tokens[rows].reshape(-1, 8).numpy().astype(np.float64)
    np.testing.assert_allclose(mean, np.nanmean(seen, 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(deviation[:7], np.nanstd(seen, 0)[:7], rtol=1e-5)
    assert deviation[7] == 1.0


class Tokens(nn.Module):
    """An encoder of texts of three and of five words."""

    def encode_batch(self, batch: Batch, alone: bool) -> MMSSLOutput:
        words = batch["text"]["words"]
        whole = {"text": words.mean(1)}
        there = torch.arange(words.shape[1]) < words.shape[1] - torch.arange(len(words))[:, None]
        present = {"text": torch.ones(len(words), dtype=torch.bool)}
        return MMSSLOutput(
            tokens={"text": words}, valid={"text": there}, pooled=whole, embeddings=whole, present=present
        )


def test_tokens_of_all_batches_are_kept_in_the_order_of_the_rows_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [torch.randn(2, 3, 4), torch.randn(3, 5, 4)]

    def collected() -> Embedded:
        collector = Collector({"model": Tokens()}, None, tokens_of=5)  # type: ignore[dict-item]
        for words in batches:
            collector.add({"text": {"words": words}})
        return collector.result(torch.tensor([4, 3, 2, 1, 0]))

    tokens = collected().tokens["model"]["text"]
    assert tokens.shape == (5, 5, 4) and not collected().no_tokens
    torch.testing.assert_close(tokens[4, :3], batches[0][0])
    torch.testing.assert_close(tokens[2], batches[1][0])
    assert tokens.isnan().all(-1).sum(1).tolist() == [2, 1, 0, 3, 2]
    monkeypatch.setattr(embedding, "MOST_TOKENS", 5 * 3 * 4 * 4)
    found = collected()
    assert found.no_tokens is not None and not found.tokens, "the second batch is the longer one"
    assert "the tokens of 5 rows" in found.no_tokens and "fewer rows: limit, train_limit" in found.no_tokens
    y = torch.zeros(5, dtype=torch.long)
    said = tasks.attentive(tasks.Features(found, found, frozenset(), y, y), 0, torch.device("cpu"))
    assert said == ({}, {"text": found.no_tokens})
    monkeypatch.setattr(embedding, "MOST_TOKENS", 5 * 5 * 4 * 4)
    assert collected().tokens
