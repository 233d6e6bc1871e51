"""The attentive probe: it finds what a mean hides, looks at no patch that is not there, and is a task of `evaluate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from toys import runs

from mmssl.cli import main
from mmssl.evaluation import attentive, embedding
from mmssl.evaluation.attentive import AttentiveProbe, attentive_logits, fit_attentive


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
    monkeypatch.setattr(attentive, "MOST", 300)
    monkeypatch.setattr(attentive, "RATES", (3e-3,))
    monkeypatch.setattr(attentive, "DECAYS", (0.1,))
    (tokens, y), (test, truth) = hidden_in_one_token(800, 0), hidden_in_one_token(400, 1)
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


def test_it_is_a_task_of_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs.cli(tmp_path, content=runs.image_text()) == 0
    capsys.readouterr()
    command = ["evaluate", str(tmp_path / "run"), "--data", "builtin:digits", "--task", "attentive", "--task", "knn"]
    assert main([*command, "limit=40", "train_limit=80"]) == 0
    out = capsys.readouterr().out
    said = {line.split("0.")[0].strip().replace("  ", " ") for line in out.splitlines() if "attentive" in line}
    assert any("image/accuracy" in line for line in said) and any("text/accuracy" in line for line in said), out
    assert any("image/ECE" in line for line in said)
    monkeypatch.setattr(embedding, "MOST_TOKENS", 1000)
    assert main([*command, "limit=40", "train_limit=80"]) == 0
    out = capsys.readouterr().out
    assert "attentive: left out" in out and "the tokens of 40 rows" in out and "knn" in out
    assert "fewer rows: limit, train_limit" in out
