"""`Topics`: what a sample is about, by how often each code occurs in it: latent Dirichlet allocation.

HuBERTopic (Maekaku et al. 2023, arXiv 2310.03975) has the topic of an utterance, by its units, classified beside masked
prediction. LDA (Blei et al. 2003) is fitted by scikit-learn on bags of codes before the first step; a sample's topic is
then found by the variational E-step of Hoffman et al. 2010 (their algorithm 1, as `LatentDirichletAllocation.transform`
does it), here on a batch and in float64, so that any number of processes finds the same.

Shapes: B samples, T topics, K codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import UserError

STEPS, EPS = 100, torch.finfo(torch.float64).eps


class Topics(nn.Module):
    """Topics of bags of codes.

    Buffers: `words` (T, K), exp of the expected log probability of each code in each topic.
    """

    words: Tensor

    def __init__(self, topics: int, codes: int) -> None:
        super().__init__()
        self.register_buffer("words", torch.zeros(topics, codes, dtype=torch.float64))

    def fit(self, bags: Tensor, seed: int, where: str) -> None:
        """LDA of bags (B, K), with priors of 1 / T. UserError where there are fewer samples than topics; where: what
        its message begins with."""
        from sklearn.decomposition import LatentDirichletAllocation

        topics = len(self.words)
        filled = bags[bags.sum(1) > 0]
        if len(filled) < topics:
            raise UserError(f"{where}topics: found {topics} for {len(filled)} samples, expected fewer, or more samples")
        lda = LatentDirichletAllocation(topics, random_state=seed, learning_method="batch", max_iter=20)
        lda.fit(filled.cpu().numpy())
        self.words.copy_(torch.from_numpy(lda.exp_dirichlet_component_))

    @torch.no_grad()
    def shares(self, bags: Tensor) -> Tensor:
        """bags (B, K), how often each code occurs -> (B, T) float64, the expected shares of the topics."""
        words, bags = self.words.double(), bags.double()
        prior = 1 / len(words)
        weight = bags.new_ones(len(bags), len(words))
        for _ in range(STEPS):
            topics = (weight.digamma() - weight.sum(1, keepdim=True).digamma()).exp()
            found = bags / (topics @ words + EPS)
            weight = prior + topics * (found @ words.T)
        return weight / weight.sum(1, keepdim=True)

    def of(self, ids: Tensor) -> Tensor:
        """(B,) int64, the topic with the largest share, of samples whose patches have these ids (B, N), -1: none."""
        return self.shares(bags_of(ids, self.words.shape[1])).argmax(1)


def bags_of(ids: Tensor, codes: int) -> Tensor:
    """ids (B, N), -1 where there is none -> (B, K) float32: how often each occurs."""
    counts = torch.zeros(len(ids), codes + 1, device=ids.device)
    counts.scatter_add_(1, ids + 1, torch.ones_like(ids, dtype=torch.float32))
    return counts[:, 1:]
