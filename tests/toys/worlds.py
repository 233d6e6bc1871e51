"""Toy worlds of the objectives that learn from views, columns, queues, places and clusters; see `world`."""

from __future__ import annotations

from typing import Any

import torch

from mmssl.masking import Mixture, Random
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives import (
    bootstrap,
    clustering,
    contrastive,
    dense,
    distillation,
    jepa,
    mae,
    matching,
    pretext,
    redundancy,
    supervised,
)
from mmssl.objectives.base import Objective
from mmssl.objectives.options.relations import PositiveOptions
from mmssl.objectives.pretraining import Pretraining
from toys.world import DECODER, HEAD, LOW, PREDICTOR, PREPROCESSORS, TARGETS, VIEWS, fitted, model


def of_two_columns() -> Pretraining:
    """One encoder of two columns of signals: every kind of objective that speaks of views."""
    net = model()
    head, two = {"head_hidden": 16, "head_width": 8}, {"towers": ["signal"], "views": ["clean", "later"]}
    pooled = {"towers": ["signal", "table"], "views": ["clean", "later"], "pooled": {"signal": 0.4, "table": 0.6}}
    several = {"towers": ["graph", "signal"], "views": ["later", "louder"], "pooled_views": ["later", "louder"]}
    spread = {"loss": "vicreg", "variance": 2.5, "invariance": 2.5, "covariance": 0.1}
    latent = {"tower": "signal", "target_view": "later", "predictor": PREDICTOR}
    small = distillation.HeadConfig(prototypes=12, hidden=16, bottleneck=8, layers=2)
    spoiled = {"tower": "signal", "view": "spoiled", "target": {"signal": "volts"}, "decoder": HEAD}
    objectives: dict[str, Objective] = {
        "contrastive": contrastive.Contrastive(contrastive.Config(**two, project_within=True, **LOW), net),
        "pooled": contrastive.Contrastive(contrastive.Config(**pooled, **LOW), net),
        "mean": contrastive.Contrastive(contrastive.Config(**several, **LOW), net),
        "vicreg": redundancy.Redundancy(redundancy.Config(**two, **spread, **head, **LOW), net),
        "byol": bootstrap.Bootstrap(bootstrap.Config(**two, predictor_hidden=16, **head, **LOW), net),
        "matching": matching.Matching(matching.Config(towers=["signal"], other_view="later", hidden=16), net),
        "places": jepa.JEPA(jepa.Config(mask="half", **latent), net),
        "whole": jepa.JEPA(jepa.Config(**latent), net),
        "some": jepa.JEPA(jepa.Config(mask="half", target_mask="half", **latent), net),
        "mae": mae.MAE(mae.Config(tower="signal", mask="half", target_view="later", decoder=DECODER), net),
        "gmml": mae.MAE(mae.Config(mask=None, target_view="louder", **spoiled), net),
        "beside": mae.MAE(mae.Config(tower="signal", mask="half", beside_view="later", decoder=DECODER), net),
        "dino": distillation.Distillation(
            distillation.Config(tower="signal", global_views=["clean", "louder"], head=small, weight=0.2), net
        ),
    }
    views = {"later": {"signal": {"column": "later"}}, "louder": {"signal": {"column": "later", "gain": 0.5}}}
    views |= {"spoiled": {"signal": {"corrupt": {"fill": ["noise"], "view": "louder"}}}}
    return Pretraining(net, objectives, views, {"half": Random(ratio=0.5)})


def sides_and_their_mean() -> Pretraining:
    """LeJEPA, between the views of each tower and across towers."""
    net = model()
    head = {"loss": "lejepa", "head_hidden": 16, "head_width": 8}
    sides: dict[str, dict[str, Any]] = {
        "within": {
            "towers": ["signal", "graph"],
            "views": ["b", "a", "clean"],
            "global_views": ["a", "b"],
            "within_towers": ["signal"],
            "pairs": "within",
            "cache_rows": 3,
        },
        "across": {"towers": ["table", "signal", "graph"], "slices": 8},
        "white": {"towers": ["table", "signal"], "regulariser": "whitening", "head_norm": "layer"},
        "msbreg": {"towers": ["signal"], "views": ["a", "b", "clean"], "loss": "msbreg", "momentum": [0.5, 0.5]},
    }
    objectives = {n: redundancy.Redundancy(redundancy.Config(**head | o, **LOW), net) for n, o in sides.items()}
    return Pretraining(net, objectives, VIEWS, {})


def keys_and_queues() -> Pretraining:
    """MoCo, MoCo v3 and NNCLR, within a tower and across, with queues that are short and run round; and by columns:
    SupCon, LOOK, lists of grades, and negatives of other clusters alone."""
    net = model()
    head = {"head_hidden": 16, "head_width": 8}
    between = {"towers": ["signal"], "views": ["a", "b"], **head}
    taught = {"keys": "teacher", "momentum": [0.5, 0.5]}
    asked: dict[str, dict[str, Any]] = {
        "moco": {**between, **taught, "queue": 5, "both_ways": False, "temperature": 0.2, "chunk": 3, "cache_rows": 3},
        "third": {**between, **taught, "predictor_hidden": 16, "head_norm": "batch", "key_views": ["clean", "b"]},
        "across": {"towers": ["table", "graph"], **taught, "queue": 9, "negatives": "both", "loss": "sigmoid"},
        "near": {**between, "queue": 7, "nearest": True, "predictor_hidden": 16, "loss": "dclw"},
        "supcon": {
            **between,
            "loss": "nt_xent",
            "positives": PositiveOptions(column="who"),
            "chunk": 3,
            "cache_rows": 3,
        },
        "devices": {"towers": ["signal"], "views": ["a", "b", "clean"], **head, "closest": True, "temperature": 0.2},
        "look": {
            **between,
            **taught,
            "queue": 9,
            "negatives": "both",
            "neighbours": 3,
            "positives": PositiveOptions(column="who", form="inside", pair=False),
        },
        "graded": {
            "towers": ["table", "graph"],
            "loss": "listwise",
            "positives": PositiveOptions(column="who", grade="score"),
        },
        "apart": {
            **between,
            "positives": PositiveOptions(column="when", within=0.5, form="each"),
            "negatives_column": "who",
            "negatives_of": "other",
        },
    }
    objectives = {n: contrastive.Contrastive(contrastive.Config(**o, **LOW), net) for n, o in asked.items()}
    return Pretraining(net, objectives, VIEWS, {})


TOLD = {
    "a": VIEWS["a"],
    "shuffled": {"signal": {"transform": {"kind": "permutation", "parts": 3, "view": "a"}}},
    "back": {"signal": {"transform": {"kind": "reversal"}}},
    "forth": {"signal": {"transform": {"kind": "reversal", "view": "a"}}},
    "spoiled": {"signal": {"corrupt": {"view": "back"}}},
    "done": {"signal": {"transform": {"kind": "which", "of": ["reversal", "permutation"], "parts": 3, "view": "a"}}},
    "fewer": {"graph": {"drop_edges": 0.5}},
}


def pretexts() -> Pretraining:
    """What transformed a view, what lies between two, of a corrupted one and behind a mask; what is known of graphs,
    of their nodes and of pairs of them."""
    net = model()
    each: dict[str, dict[str, Any]] = {
        "order": {"views": ["shuffled"], "hidden": 8},
        "between": {"views": ["back", "forth"]},
        "spoiled": {"views": ["spoiled"], "mask": "half"},
        "which": {"views": ["done"]},
        "size": {"tower": "graph", "tells": "size", "mask": "half", "hidden": 8},
        "degree": {"tower": "graph", "tells": "degree", "hidden": 8},
        "edge": {"tower": "graph", "tells": "edge", "views": ["fewer"], "pairs": 2},
        "likeness": {"tower": "graph", "tells": "likeness", "pairs": 5},
    }
    made = {n: pretext.Config(**{"tower": "signal", **o}, **LOW) for n, o in each.items()}
    objectives = {n: pretext.Pretext(config, net) for n, config in made.items()}
    return Pretraining(net, objectives, TOLD, {"half": Random(ratio=0.5)})


def labelled() -> Pretraining:
    """Every task of a label, on one tower and on several side by side, of views and behind a mask."""
    net = model()
    each: dict[str, dict[str, Any]] = {
        "kind": {"towers": ["signal", "table"], "class_weights": "balanced", "label_smoothing": 0.1, "hidden": 8},
        "tags": {"towers": ["signal"], "views": ["a", "b"], "class_weights": "balanced"},
        "grade": {"towers": ["graph", "signal"], "mask": "half", "complete": True},
        "mass": {"towers": ["table"], "learn_weight": True},
        "both": {"column": "kind", "towers": ["signal", "table"], "joint_view": "shuffled", "distil": True},
    }
    objectives = {}
    for name, options in each.items():
        column = options.pop("column", name)
        config = supervised.Config(column=column, task=TARGETS[column].kind, **options, **LOW)
        objectives[name] = supervised.Supervised(config, net, fitted(column))
    return Pretraining(net, objectives, VIEWS | TOLD, {"half": Random(ratio=0.5)})


def places_that_match() -> Pretraining:
    """Patches of two views by their place, by what they show, and regions of them; samples that lose their tail."""
    net = model()
    two = {"tower": "signal", "views": ["early", "late"], "head_hidden": 16, "head_width": 8}
    options: dict[str, dict[str, Any]] = {
        "vicregl": {**two, "match": "both", "matches": 5, "invariance": 2.5, "variance": 2.5},
        "every": {**two, "within": None, "local_views": ["a"], "head_norm": "layer", "variance": 2.5},
        "densecl": {**two, "loss": "infonce", "match": "feature", "target": "teacher", "queue": 5},
        "local": {**two, "loss": "infonce", "negatives": "patches"},
        "pixpro": {**two, "loss": "cosine", "target": "teacher", "within": 0.8},
        "simsiam": {**two, "loss": "cosine", "match": "feature", "predictor": "mlp", "predictor_hidden": 16},
    }
    objectives = {n: dense.Dense(dense.Config(**o, **LOW), net) for n, o in options.items()}
    views = VIEWS | {"early": {"signal": {"gain": 0.2}}, "late": {"signal": {"gain": 0.4, "shift": 3}}}
    return Pretraining(net, objectives, views, {})


def clusters() -> Pretraining:
    """SwAV with several crops and a queue, whose prototypes get no gradient in a first step, within towers and across
    them, and GEDI's cluster loss."""
    net = model()
    head = {"head_hidden": 16, "head_width": 8, "prototypes": 6}
    options: dict[str, dict[str, Any]] = {
        "swav": {"towers": ["signal"], "views": ["a", "b", "clean"], "global_views": ["b", "a"], "queue": 5}
        | {"freeze_prototypes": 0.2},
        "across": {"towers": ["table", "graph"], "sharpness": 0.3, "queue": 7, "cache_rows": 3},
        "deep": {"towers": ["signal"], "views": ["a", "b"], "assign": "kmeans", "queue": 6, "every": 1},
        "gedi": {
            "towers": ["signal", "graph"],
            "views": ["b", "clean"],
            "pairs": "within",
            "assign": "posterior",
            "head_norm": "layer",
        },
    }
    objectives = {n: clustering.Clustering(clustering.Config(**o, **head, **LOW), net) for n, o in options.items()}
    return Pretraining(net, objectives, VIEWS, {})


ECG = {
    "type": "toys.leads",
    "leads": ["I", "II", "III", "aVR", "aVL", "aVF", *(f"V{n}" for n in range(1, 7))],
    "rate": 100.0,
}
"""The toy signals are read as these: on a grid, of leads that may be missing, in windows of 10 samples."""


def on_trunks(trunks: dict[str, dict[str, Any]], later: str) -> MMSSLModel:
    """A model of these towers; `later`, a further column of signals, is a modality by itself, cut by time or lead."""
    torch.manual_seed(0)
    specs = {n: {"type": f"toys.{n}", **p.sizes()} for n, p in PREPROCESSORS.items()}
    specs |= {n: {**ECG, "window": 10, "patch": patch} for n, patch in (("signal", "time"), ("later", later))}
    towers = {name: TowerConfig(width=24, **options) for name, options in trunks.items()}
    config = MMSSLConfig(
        modalities={name: specs[name] for name in trunks},
        towers={name: tower_spec(tower) for name, tower in towers.items()},
        projection=16,
    )
    return MMSSLModel(config)


LOUD = {"a": {"signal": {"amplitude": 0.2}}, "b": {"signal": {"amplitude": 0.5}, "graph": {"drop_edges": 0.3}}}


def on_modules_of_ones_own() -> Pretraining:
    """Trunks that the user brings: on patches and on rasters, which give a token a patch or a vector a sample."""
    own = {"table": "Memory", "graph": "Summary", "signal": "Cells", "later": "Peaks"}
    options = {"signal": {"trunk_options": {"patch": [10]}}}
    net = on_trunks({n: {"trunk": f"toys.trunks.{cls}", **options.get(n, {})} for n, cls in own.items()}, "time")
    head, small = {"head_hidden": 16, "head_width": 8}, distillation.HeadConfig(prototypes=12, hidden=16, layers=2)
    between = {"towers": ["signal"], "views": ["a", "b"], **head}
    objectives: dict[str, Objective] = {
        "clip": contrastive.Contrastive(contrastive.Config(towers=[*own], **LOW), net),
        "vicreg": redundancy.Redundancy(redundancy.Config(**between, loss="vicreg", **LOW), net),
        "byol": bootstrap.Bootstrap(bootstrap.Config(**between, predictor_hidden=16, **LOW), net),
        "cells": mae.MAE(mae.Config(tower="table", mask="half", decoder=DECODER), net),
        "windows": mae.MAE(mae.Config(tower="signal", mask="half", mode="replace", decoder=DECODER), net),
        "latent": jepa.JEPA(jepa.Config(tower="table", mask="half", predictor=PREDICTOR), net),
        "dino": distillation.Distillation(
            distillation.Config(tower="graph", global_views=["clean", "b"], head=small, weight=0.2), net
        ),
    }
    return Pretraining(net, objectives, LOUD, {"half": Random(ratio=0.5)})


def on_shipped_trunks() -> Pretraining:
    """Residual convolutions, over all leads at once and over each by itself, and messages along edges; and a
    transformer that is told by a token which of several kinds of masks a sample drew."""
    resnet: dict[str, Any] = {"trunk": "resnet", "depth": 2}
    messages = {"trunk": "gat", "depth": 2, "heads": 2}
    told = {"depth": 2, "heads": 2, "modes": ["some", "most"]}
    net = on_trunks({"signal": resnet, "later": resnet, "graph": messages, "table": told}, "lead")
    hidden = {"mask": "half", "mode": "replace"}
    deep = mae.DecoderConfig(width=16, depth=1, heads=2, trunk="gin")
    objectives: dict[str, Objective] = {
        "clip": contrastive.Contrastive(contrastive.Config(towers=["signal", "later", "graph"], **LOW), net),
        "simclr": contrastive.Contrastive(
            contrastive.Config(towers=["signal"], views=["a", "b"], head_hidden=16, head_width=8, **LOW), net
        ),
        "windows": mae.MAE(mae.Config(tower="signal", decoder=DECODER, **hidden), net),
        "nodes": mae.MAE(mae.Config(tower="graph", decoder=deep, **hidden), net),
        "cells": mae.MAE(mae.Config(tower="table", mask="told", decoder=DECODER), net),
        "some nodes": mae.MAE(mae.Config(tower="graph", mask="half", decoder=DECODER), net),
        "latent": jepa.JEPA(jepa.Config(tower="graph", mask="half", predictor=PREDICTOR), net),
    }
    kinds = {name: {"type": "random", "ratio": r, "mode": name} for name, r in (("some", 0.3), ("most", 0.7))}
    return Pretraining(net, objectives, LOUD, {"half": Random(ratio=0.5), "told": Mixture(kinds=kinds)})
