"""Zero-shot classification: the class whose name, put into prompts, lies nearest to the sample.

CLIP (Radford et al. 2021, arXiv 2103.00020, section 3.1.4): the L2-normalised embeddings of a class's prompts are
averaged over the templates and normalised again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import UserError


def prompts(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """All prompts, class by class: len(classes) * len(templates) strings. `{}` in a template is the class's name.

    Raises UserError for a template without `{}` and for an empty list.
    """
    if not classes or not templates:
        raise UserError("evaluation.templates: zero-shot needs at least one class name and one template")
    for template in templates:
        if "{}" not in template:
            raise UserError(f"evaluation.templates: '{template}' has no '{{}}' for the class name")
    return [template.replace("{}", name) for name in classes for template in templates]


def class_vectors(embedded: Tensor, templates: int) -> Tensor:
    """(C, E) normalised: one vector a class from the embeddings (C * templates, E) of `prompts`."""
    if templates < 1 or len(embedded) % templates:
        raise ValueError(f"{len(embedded)} prompts cannot be shared out to {templates} templates a class")
    unit = normalize(embedded.float(), dim=1)
    return normalize(unit.reshape(-1, templates, unit.shape[1]).mean(1), dim=1)


def template_vectors(embedded: Tensor, templates: int) -> Tensor:
    """(templates, C, E): the class vectors of each template by itself, from the embeddings of `prompts`."""
    if templates < 1 or len(embedded) % templates:
        raise ValueError(f"{len(embedded)} prompts cannot be shared out to {templates} templates a class")
    return embedded.float().reshape(-1, templates, embedded.shape[1]).transpose(0, 1)


def ensembles(chances: Iterable[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """How -> (predicted class (n,), confidence (n,)) where each template answers by itself, in probabilities (n, C).

    Li et al., "Self-ensembled calibration" of few-shot prompts: "mean" of the probabilities, "max" the surest answer of
    all templates, "vote" the class that most templates answer with (of equally many the one with the higher mean), with
    the share of the templates for its confidence. ValueError for none.
    """
    total, best, votes, count = None, None, None, 0
    for p in chances:
        one = torch.nn.functional.one_hot(p.argmax(1), p.shape[1]).to(p.dtype)
        total, best, votes = (
            (p, p, one)
            if total is None or best is None or votes is None
            else (total + p, torch.maximum(best, p), votes + one)
        )
        count += 1
    if total is None or best is None or votes is None:
        raise ValueError("ensembles: found no template")
    mean, share = total / count, votes / count
    # a mean of probabilities is at most 1, and shares are at least 1 / count apart
    winner = (share + mean / (2 * count)).argmax(1)
    voted = share.gather(1, winner[:, None])[:, 0]
    return {"mean": (mean.argmax(1), mean.amax(1)), "max": (best.argmax(1), best.amax(1)), "vote": (winner, voted)}


def zero_shot_predict(samples: Tensor, classes: Tensor, chunk: int = 4096) -> Tensor:
    """(n,) int64: for each of samples (n, E) the class in classes (C, E) with the largest cosine."""
    if samples.shape[1] != classes.shape[1]:
        raise ValueError(f"samples are {samples.shape[1]} wide, class vectors {classes.shape[1]}")
    unit = normalize(classes.float(), dim=1).T
    best = torch.zeros(len(samples), dtype=torch.int64, device=samples.device)
    for start in range(0, len(samples), chunk):
        # a sample's own length does not change its ranking of the classes
        best[start : start + chunk] = (samples[start : start + chunk].float() @ unit).argmax(1)
    return best
