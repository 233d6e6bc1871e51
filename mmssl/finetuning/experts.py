"""What experts' answers count, found on rows without labels: so that two views of a row are answered alike.

Zhang et al. 2022, "Self-Supervised Aggregation of Diverse Experts for Test-Agnostic Long-Tailed Recognition" (arXiv
2107.09249), section 4.2 and algorithm 1; Vanint/SADE-AgnosticLT. An expert is the steadier on the classes that it is
for, so that how steady the answers are together says which classes there are many of. The paper takes steps by
batches; here the sum over all rows is gone up at once.

Shapes: n rows, K experts, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..draws import Draws, key_of
from ..models.running import device_of, evaluating, to_device
from ..objectives.step import Step
from .jobs import Job
from .supervised import pooled
from .supervised_job import SupervisedJob

LEAST = 0.05
"""No expert counts less than that: where one would, it ends (the paper's rule)."""
STEPS, RATE = 300, 0.05


def steadiness(shares: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """() mean cosine of what experts with logits a and b (n, K, C) say together of two views, with shares (K,)."""
    first, second = ((shares[:, None] * said).sum(1).softmax(1) for said in (a, b))
    return F.cosine_similarity(first, second, dim=1).mean()


def weighed(a: Tensor, b: Tensor) -> Tensor:
    """(K,) shares with the largest `steadiness` that is found from equal ones on, none below `LEAST`; sum 1."""
    a, b = a.double(), b.double()
    wanted = torch.zeros(a.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([wanted], RATE)
    shares = wanted.detach().softmax(0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (-steadiness(wanted.softmax(0), a, b)).backward()
        optimizer.step()
        found = wanted.detach().softmax(0)
        if bool((found < LEAST).any()):
            break
        shares = found
    return shares


@torch.no_grad()
def in_view(job: SupervisedJob, view: str) -> Tensor:
    """(n, D) what the head is given of the test rows that can be read, in a view that `augment` draws by this name."""
    options, model, found = job.options, job.encoder, list[Tensor]()
    with evaluating([model]):
        for number, loaded in enumerate(job.batches(job.rows.test, Job.inputs(job)[0])):
            draws = Draws(key_of(options.seed, view, number), loaded.size)
            step = Step(loaded.batch, model, {view: options.augment}, {}, draws)
            changed = {name: step.inputs(name, view) for name in options.augment}
            batch = to_device({**loaded.batch, **changed}, device_of(model))
            x, there = pooled(model, job.towers, batch, job.kept is not None)
            found.append(x[there])
    return torch.cat(found)


def weigh(job: SupervisedJob) -> list[float]:
    """Set what the experts of a trained job count by its test rows, without their labels; and say it."""
    head = job.task.head
    assert head.shares is not None
    with evaluating([head]):
        a, b = (head.experts(in_view(job, view)).detach().cpu() for view in ("a", "b"))
    with torch.enable_grad():
        shares = weighed(a, b)
    head.shares.copy_(shares)
    return [round(share, 4) for share in shares.tolist()]
