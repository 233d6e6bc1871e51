"""Joint budgets of visible patches: exact totals, the Dirichlet distribution, padding and processes."""

import pytest
import torch
from scipy import stats
from toys import world as toy_world

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.masking import Budget
from mmssl.masking.budget import divide, log_gamma
from mmssl.patches import Patches


def patches(batch: int, counts: dict[str, int]) -> dict[str, Patches]:
    return {
        name: Patches(torch.zeros(batch, n, 2), torch.zeros(batch, n, 1), torch.ones(batch, n, dtype=torch.bool), True)
        for name, n in counts.items()
    }


def shown(splits) -> torch.Tensor:
    return torch.stack([(s.keep >= 0).sum(1) for s in splits.values()], 1)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 50.0, {"a": 1.0, "b": 3.0, "c": 0.5}])
def test_the_total_is_exact_and_no_patch_is_both(alpha):
    content = patches(64, {"a": 49, "b": 20, "c": 7})
    splits = Budget(visible=30, alpha=alpha)(content, Draws(1, 64))
    counts = shown(splits)
    assert (counts.sum(1) == 30).all()
    assert counts.unique(dim=0).shape[0] > 3
    for name, split in splits.items():
        both = torch.cat([split.keep, split.hide[:, 0]], 1)
        for row in both:
            assert sorted(i for i in row.tolist() if i >= 0) == list(range(content[name].count))


def test_a_small_budget_follows_the_dirichlet_distribution():
    counts = shown(Budget(visible=200, alpha=1.5)(patches(2000, {"a": 200, "b": 200, "c": 200}), Draws(3, 2000)))
    share = counts[:, 0].double().numpy() / 200
    assert stats.kstest(share, stats.beta(1.5, 3.0).cdf).pvalue > 0.01  # a Dirichlet's marginal


@pytest.mark.parametrize("alpha", [0.05, 0.7, 1.0, 8.0])
def test_log_gamma_is_gamma(alpha):
    x = log_gamma(alpha, Draws(5, 4000)).exp().numpy()
    assert stats.kstest(x, stats.gamma(alpha).cdf).pvalue > 0.01


def test_what_does_not_fit_goes_to_the_others():
    shares = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    most = torch.tensor([[4, 100, 100], [5, 5, 5], [0, 0, 0]])
    assert divide(20, shares, most).tolist() == [[4, 16, 0], [5, 5, 5], [0, 0, 0]]


def test_fixed_budgets_and_what_is_not_named():
    content = patches(5, {"a": 49, "b": 20, "c": 7})
    splits = Budget(visible={"a": 10, "b": 40})(content, Draws(1, 5))
    assert list(splits) == ["a", "b"] and (shown(splits) == torch.tensor([10, 20])).all()
    with pytest.raises(UserError, match="mask budget: found none of a, b, c"):
        Budget(visible={"d": 3})(content, Draws(1, 5))


def test_absent_modalities_get_nothing_and_padding_changes_nothing():
    net = toy_world.model(joint=True)
    batch = toy_world.batch(toy_world.raw(8, seed=1))
    content = {name: net.modality(name).patchify(batch[name]) for name in batch}
    splits = Budget(visible=5)(content, Draws(1, 8))
    there = torch.stack([p.valid.sum(1) for p in content.values()], 1)
    assert (shown(splits).sum(1) == there.sum(1).clamp(max=5)).all()
    assert (shown(splits)[there == 0] == 0).all()
    more = torch.full((3,), -1)
    wide = {n: p.take(torch.cat([torch.arange(p.count), more]).expand(8, -1)) for n, p in content.items()}
    padded = Budget(visible=5)(wide, Draws(1, 8))
    for name, split in splits.items():
        assert torch.equal(split.keep, padded[name].keep) and torch.equal(split.hide, padded[name].hide)
    half = {n: p.take(torch.arange(p.count).expand(8, -1)).replace(full=False) for n, p in content.items()}
    second = {n: Patches(p.values[4:], p.coords[4:], p.valid[4:], links=None) for n, p in half.items()}
    for name, split in Budget(visible=5)(second, Draws(1, 4, 4, 8)).items():
        width = split.keep.shape[1]
        assert torch.equal(split.keep, splits[name].keep[4:, :width])
