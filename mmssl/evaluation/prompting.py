"""The task `zero-shot` over embedded rows: accuracy and calibration of classes that are named in templates."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .answers import Answer
from .baselines import majority
from .embedding import Embedded
from .frechet import angles, frechet_predict, probabilities
from .tasks import Features, Metrics, calibration, metric
from .zero_shot import class_vectors, ensembles, template_vectors, zero_shot_predict


def zero_shot(
    features: Features, text: str, prompts: Embedded, templates: int, y: Tensor, temperature: float | None = None
) -> tuple[Metrics, dict[str, str]]:
    """Zero-shot accuracy of every other modality against prompts.

    Args:
        features: what is judged.
        text: the modality that the prompts are of.
        prompts: C * templates rows of it.
        templates: prompts a class.
        y: (n,) int64 class of the test rows in the order of the prompts, -1 unknown.
        temperature: of the softmax over the cosines; with it also the accuracy of Loki's Frechet-mean rule, with the
            angles between class vectors for a metric, the calibration error and, of several templates, both where each
            template answers by itself: mean of the probabilities, surest answer, vote.
    """
    test = features.test
    out, skipped = {}, {}
    for name in test.present:
        if name == text:
            continue
        use = test.present[name] & (y >= 0)
        if not bool(use.any()):
            skipped[name] = "no labelled test row has it"
            continue
        truth = y[use]
        sides = {
            encoder: (test.embeddings[encoder][name][use], class_vectors(spoken[text], templates))
            for encoder, spoken in prompts.embeddings.items()
            if test.embeddings[encoder][name].shape[1] == spoken[text].shape[1]
        }
        if "model" not in sides:
            skipped[name] = f"its embedding and that of '{text}' differ in width (set model.projection)"
            continue
        pair = features.cross(name, text, test.raw.get(name), prompts.raw.get(text))
        if pair is not None:
            sides["raw"] = (pair[0][use], class_vectors(pair[1], templates))
        chance: dict[str, float | None] = {"chance": majority(truth)}
        hits = {encoder: zero_shot_predict(*side) == truth for encoder, side in sides.items()}
        values = chance | {e: float(hit.double().mean()) for e, hit in hits.items()}
        out[f"{name}/accuracy"] = metric(values, len(truth))
        rows = use.nonzero()[:, 0]
        features.answers[f"{name}/accuracy"] = Answer(rows, {e: hit.double() for e, hit in hits.items()})
        if temperature is not None:
            chances = {encoder: probabilities(*side, temperature) for encoder, side in sides.items()}
            means = {e: frechet_predict(p, angles(sides[e][1])) == truth for e, p in chances.items()}
            values = chance | {e: float(hit.double().mean()) for e, hit in means.items()}
            out[f"{name}/accuracy, Frechet mean"] = metric(values, len(truth))
            out[f"{name}/ECE"] = calibration({e: (p.amax(1), hits[e]) for e, p in chances.items()}, len(truth))
            if templates > 1:
                spoken = {encoder: found[text] for encoder, found in prompts.embeddings.items() if encoder in sides}
                spoken |= {"raw": pair[1]} if pair is not None else {}
                asked = {encoder: (sides[encoder][0], every) for encoder, every in spoken.items()}
                out |= _by_template(name, asked, templates, temperature, truth, chance)
    return out, skipped


def _by_template(
    name: str,
    sides: Mapping[str, tuple[Tensor, Tensor]],
    templates: int,
    temperature: float,
    truth: Tensor,
    chance: Mapping[str, float | None],
) -> Metrics:
    """Accuracy and calibration error where templates answer one by one. sides: encoder -> (samples (n, E), prompts)."""
    answers = {
        encoder: ensembles(probabilities(x, one, temperature) for one in template_vectors(every, templates))
        for encoder, (x, every) in sides.items()
    }
    out: Metrics = {}
    for how in ("mean", "max", "vote"):
        found = {encoder: (by[how][0] == truth, by[how][1]) for encoder, by in answers.items()}
        values = {**chance, **{e: float(hit.double().mean()) for e, (hit, _) in found.items()}}
        out[f"{name}/accuracy, {how} of templates"] = metric(values, len(truth))
        sure = {e: (confidence, hit) for e, (hit, confidence) in found.items()}
        out[f"{name}/ECE, {how} of templates"] = calibration(sure, len(truth))
    return out
