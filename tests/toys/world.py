"""A model over the three toy modalities and batches for it, shared by the contract and distributed tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mmssl.data.labels import IdPreprocessor, LabelPreprocessor, NumberPreprocessor, Target
from mmssl.masking import Budget, FeatureSubsets, Mixture, MultiBlock, Random
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.models.quantisers import Codebooks
from mmssl.objectives import bootstrap, contrastive, distillation, jepa, mae, matching, redundancy, tokenizer
from mmssl.objectives.base import Objective
from mmssl.objectives.options.codes import CodesConfig, LearningOptions
from mmssl.objectives.options.distillation import GramConfig
from mmssl.objectives.options.jepa import PredictorConfig, RegulariserConfig
from mmssl.objectives.options.labels import LabelColumn
from mmssl.objectives.options.mae import FusionConfig
from mmssl.objectives.options.tokenizer import CodeDecoderConfig
from mmssl.objectives.parts.topics import Topics
from mmssl.objectives.pretraining import Pretraining
from mmssl.schedules import RampConfig
from toys import graph, signal, table

PREPROCESSORS = {
    "table": table.Preprocessor(table.Config(columns={"age": 0, "sex": 3, "weight": 0})),
    "signal": signal.Preprocessor(signal.Config()),
    "graph": graph.Preprocessor(graph.Config()),
}
TARGETS = {
    name: LabelColumn(name, task)
    for name, task in (("kind", "classification"), ("tags", "multilabel"), ("grade", "ordinal"), ("mass", "regression"))
}
COLUMNS = {
    LabelColumn("who", "id").key: IdPreprocessor(),
    LabelColumn("when", "number").key: NumberPreprocessor(),
    LabelColumn("score", "number").key: NumberPreprocessor(),
}
"""What objectives may learn from beside the inputs: which of three, a time in [0, 3), a grade of 0 to 3."""
DECODER = mae.DecoderConfig(width=16, depth=1, heads=2)
HEAD = mae.DecoderConfig(depth=0)
FUSION = FusionConfig(depth=2, heads=2)
CODE_DECODER = CodeDecoderConfig(width=8, depth=1, heads=2)
LEARN = LearningOptions(width=4, learned_by="gradient", decay=0.5, revive=0.6, decoder=CODE_DECODER)
PREDICTOR = PredictorConfig(width=16, depth=1, heads=2)


def raw(n: int, seed: int = 0, absent: float = 0.3) -> dict[str, list]:
    """n raw samples a modality, some absent, with missing cells, missing leads, different lengths and sizes."""
    rng = np.random.default_rng(seed)

    def cell(value):
        return None if rng.random() < 0.2 else value

    out = {"table": [], "signal": [], "graph": []}
    for _ in range(n):
        row = {"age": cell(rng.normal()), "sex": cell(int(rng.integers(3))), "weight": cell(rng.normal())}
        wave = rng.normal(size=(12, int(rng.integers(20, 60))))
        wave[rng.random(12) < 0.2] = np.nan
        nodes = int(rng.integers(2, 7))
        net = {"x": rng.normal(size=(nodes, 4)), "edges": [list(range(nodes - 1)), list(range(1, nodes))]}
        for name, value in (("table", row), ("signal", wave), ("graph", net)):
            out[name].append(None if rng.random() < absent else value)
    return out


def labels(n: int, seed: int = 0) -> dict[str, list]:
    """Of n rows what columns beside the inputs say, by their keys in a batch; some rows say nothing."""
    rng = np.random.default_rng([seed, 1])
    values: dict[str, list] = {
        "kind": [*"abc"],
        "tags": [[], ["x"], ["x", "y"]],
        "grade": [1, 2, 4],
        "mass": [0.5, 3.0],
    }
    return {
        TARGETS[name].key: [None if rng.random() < 0.3 else of[int(rng.integers(len(of)))] for _ in range(n)]
        for name, of in values.items()
    }


def fitted(name: str) -> Target:
    """What `labels` of this name are, with weights that differ."""
    found = {
        "kind": Target("classification", ["kind"], ["a", "b", "c"], weights=[0.5, 1.0, 2.5]),
        "tags": Target("multilabel", ["tags"], ["x", "y"], weights=[0.5, 3.0]),
        "grade": Target("ordinal", ["grade"], [1, 2, 4]),
        "mass": Target("regression", ["mass"], mean=[1.0], std=[2.0]),
    }
    return found[name]


def columns(n: int, seed: int = 0, unknown: float = 0.2) -> dict[str, list]:
    """What the data say of n rows in `COLUMNS`, some of it unknown."""
    rng = np.random.default_rng(seed)
    said = zip(rng.integers(3, size=n), rng.uniform(0, 3, size=n), rng.integers(4, size=n), strict=True)
    rows = [[f"w{who}", float(when), int(score)] for who, when, score in said]
    for row in rows:
        row[:] = [None if rng.random() < unknown else value for value in row]
    return {key: [row[i] for row in rows] for i, key in enumerate(COLUMNS)}


FURTHER = {"later": "signal"}
"""A second column of signals."""


def later(samples: dict[str, list], seed: int = 8, absent: float = 0.3) -> dict[str, list]:
    """With a further column of signals, absent or of another length in some of the samples."""
    return samples | {"later": raw(len(samples["signal"]), seed, absent)["signal"]}


def batch(samples: dict[str, list]) -> dict[str, dict[str, torch.Tensor]]:
    labelled = {column.key: LabelPreprocessor(fitted(name)) for name, column in TARGETS.items()}
    readers = PREPROCESSORS | labelled | COLUMNS
    return {name: readers[FURTHER.get(name, name)](values) for name, values in samples.items()}


def model(joint: bool = False, seed: int = 0) -> MMSSLModel:
    torch.manual_seed(seed)
    names = list(PREPROCESSORS)
    tower = {"width": 24, "depth": 2, "heads": 2}
    towers = {"all": TowerConfig(modalities=names, **tower)} if joint else {n: TowerConfig(**tower) for n in names}
    config = MMSSLConfig(
        modalities={n: {"type": f"toys.{n}", **p.sizes()} for n, p in PREPROCESSORS.items()},
        towers={n: tower_spec(t) for n, t in towers.items()},
        projection=None if joint else 16,
    )
    return MMSSLModel(config)


def latent_configs() -> dict[str, jepa.Config]:
    """JEPA with a teacher, with either regulariser, on links, and across modalities."""

    def config(tower: str, **options: object) -> jepa.Config:
        return jepa.Config(tower=tower, predictor=PREDICTOR, **options)

    sigreg = RegulariserConfig(kind="sigreg", on="both", slices=16)
    vicreg = RegulariserConfig(kind="vicreg", on="both")
    return {
        "jepa": config("signal", mask=["blocks", "subsets"], loss="l1", predict="together"),
        "lejepa": config("table", mask="subsets", teacher="none", regulariser=sigreg, normalise_targets=False),
        "vicreg": config("graph", mask="half", teacher="none", regulariser=vicreg, loss="l2"),
        "across": config("signal", mask="half", target_tower="graph", target_mask="subsets", loss="cosine"),
        "across_whole": config("graph", target_tower="table"),
    }


LOW = {"weight": 0.05}
"""Steps are taken with a rate of 0.1: large ones would magnify rounding."""
VIEWS = {"a": {"signal": {"gain": 0.2}}, "b": {"signal": {"gain": 0.5}, "graph": {"drop_edges": 0.3}}}


def pairs_and_views() -> Pretraining:
    """Contrastive, redundancy-reducing and bootstrapped: across, within and both, between views and between masks."""
    net = model()
    head = {"head_hidden": 16, "head_width": 8}
    between, masked = {"towers": ["signal"], "views": ["a", "b"]}, {"towers": ["signal"], "masks": ["half", "other"]}
    pairs: dict[str, dict[str, Any]] = {
        "dcl": {"towers": ["table", "signal"], "loss": "dcl", "temperature_ramp": RampConfig(first=2.0, end=1.0)},
        "dclw": {**masked, "loss": "dclw", "head_norm": "batch", **head},
        "hub": {"towers": list(PREPROCESSORS), "hub_tower": "graph", "loss": "nt_xent", "chunk": 3, "cache_rows": 3},
        "slip": {
            "towers": ["table", "signal"],
            "views": ["a", "b"],
            "pairs": "both",
            "within_towers": ["signal"],
            "chunk": 2,
            **head,
        },
        "siglip": {"towers": ["table", "graph"], "loss": "sigmoid", "chunk": 3, "masks": ["half", "other"]},
    }
    redundant: dict[str, dict[str, Any]] = {
        "barlow": {**between, **head},
        "mixed": {**between, "loss": "mixed_barlow", "head_layers": 2, "cache_rows": 3, **head},
        "vicreg": {
            "towers": ["signal", "table"],
            "loss": "vicreg",
            "head_layers": 2,
            "variance": 2.5,
            "invariance": 2.5,
            "covariance": 0.1,
            **head,
        },
    }
    boot: dict[str, dict[str, Any]] = {
        "byol": {**between, "predictor_hidden": 16, **head},
        "simsiam": {**masked, "target": "online", "predictor_hidden": 16, "cache_rows": 3, **head},
        "direct": {"towers": ["signal", "graph"], "predictor": "direct", **head},
    }
    objectives: dict[str, Objective] = {}
    objectives |= {n: contrastive.Contrastive(contrastive.Config(**o, **LOW), net) for n, o in pairs.items()}
    objectives |= {n: redundancy.Redundancy(redundancy.Config(**o, **LOW), net) for n, o in redundant.items()}
    objectives |= {n: bootstrap.Bootstrap(bootstrap.Config(**o, **LOW), net) for n, o in boot.items()}
    other = Random(ratio=0.5, ramp=RampConfig(first=0.6, end=1.0))
    return Pretraining(net, objectives, VIEWS, {"half": Random(ratio=0.5), "other": other})


def pretraining(joint: bool = False) -> Pretraining:
    net = model(joint)
    masks = {"half": Random(ratio=0.5), "blocks": MultiBlock(), "subsets": FeatureSubsets()}
    if joint:
        mode, decoders = {"table": "replace"}, {"table": HEAD}
        config = mae.Config(tower="all", mask="half", mode=mode, decoder=DECODER, decoders=decoders)
        latent = jepa.Config(tower="all", mask="blocks", predictor=PREDICTOR, average_layers=2)
        match = matching.Config(towers=["all"], swap="graph", hidden=16)
        objectives: dict[str, Objective] = {"mae": mae.MAE(config, net), "jepa": jepa.JEPA(latent, net)}
        return Pretraining(net, objectives | {"match": matching.Matching(match, net)}, {}, masks)
    objectives = {
        "cells": mae.MAE(mae.Config(tower="table", mask="half", mode="replace", decoder=HEAD), net),
        "leads": mae.MAE(mae.Config(tower="signal", mask="half", decoder=DECODER), net),
        "nodes": mae.MAE(mae.Config(tower="graph", mask="half", decoder=DECODER), net),
        "nodes_replaced": mae.MAE(mae.Config(tower="graph", mask="half", mode="replace", decoder=DECODER), net),
        "clip": contrastive.Contrastive(contrastive.Config(towers=["table", "signal", "graph"]), net),
        "siglip": contrastive.Contrastive(contrastive.Config(towers=["table", "graph"], loss="sigmoid"), net),
        "simclr": contrastive.Contrastive(
            contrastive.Config(towers=["signal"], views=["a", "b"], loss="nt_xent", head_hidden=32, head_width=8), net
        ),
    }
    objectives |= {name: jepa.JEPA(config, net) for name, config in latent_configs().items()}
    objectives["match"] = matching.Matching(matching.Config(towers=["table", "graph"], share=0.6, hidden=16), net)
    return Pretraining(net, objectives, VIEWS, masks)


@torch.no_grad()
def set_books(objective: Objective) -> Objective:
    """Codebooks that were fitted to something."""
    generator = torch.Generator().manual_seed(7)
    for module in objective.modules():
        if isinstance(module, Codebooks):
            module.codes.copy_(torch.randn(module.codes.shape, generator=generator))
            module.counts.fill_(1.0)
            module.sums.copy_(module.codes)
        if isinstance(module, Topics):
            module.words.copy_(torch.rand(module.words.shape, generator=generator, dtype=torch.float64) ** 6)
    return objective


def masked(fill: Sequence[str] = ("other", "noise", "zero")) -> Pretraining:
    """A joint budget, a mask of two kinds, a decoder that looks at earlier blocks, corrupted signals, filled from other
    samples too, and codes in place of numbers, of hidden patches and of all, fitted and learned beside; tokenizers."""
    net = model()
    spoiled = {"signal": {"corrupt": {"fill": list(fill), "view": "a"}}}
    skips = mae.DecoderConfig(width=16, depth=2, heads=2, skips=[1, 2])
    gmml = {"mask": None, "view": "spoiled", "target_view": "a", "target": {"signal": "volts"}, "decoder": HEAD}
    objectives: dict[str, Objective] = {
        "skips": mae.MAE(mae.Config(tower="signal", mask="few", decoder=skips), net),
        "skips_replaced": mae.MAE(mae.Config(tower="graph", mask="few", mode="replace", decoder=skips), net),
        "gmml": mae.MAE(mae.Config(tower="signal", **gmml), net),
        "fused": mae.MAE(mae.Config(towers=["table", "signal"], mask="few", fusion=FUSION, decoder=DECODER), net),
        "kinds": mae.MAE(mae.Config(tower="signal", mask="kinds", decoder=DECODER), net),
    }
    codes = CodesConfig(kind="residual", size=5, books=2, target="volts")
    all_codes = CodesConfig(size=5, similarity="cosine", width=6, visible=0.5, topics=2)
    learned = CodesConfig(size=5, target="volts", learn=LEARN)
    objectives |= {
        "codes": set_books(
            mae.MAE(mae.Config(tower="signal", mask="few", decoder=DECODER, codes={"signal": codes}), net)
        ),
        "all codes": set_books(
            mae.MAE(
                mae.Config(tower="signal", mask="few", mode="replace", decoder=HEAD, codes={"signal": all_codes}), net
            )
        ),
    }
    replaced = {"mask": "few", "mode": "replace", "decoder": HEAD, "codes": {"signal": learned}}
    objectives["learned codes"] = set_books(mae.MAE(mae.Config(tower="signal", **replaced, **LOW), net))
    books = tokenizer.Config(
        tower="signal", kind="residual", size=5, books=2, width=4, decay=0.5, revive=0.6, decoder=CODE_DECODER, **LOW
    )
    finite = tokenizer.Config(tower="graph", kind="scalar", levels=[3, 4], decoder=CODE_DECODER, **LOW)
    trained = tokenizer.Config(tower="graph", size=5, width=4, learned_by="gradient", decoder=CODE_DECODER, **LOW)
    objectives |= {
        "tokens": set_books(tokenizer.Tokenizer(books, net)),
        "finite tokens": tokenizer.Tokenizer(finite, net),
        "trained books": set_books(tokenizer.Tokenizer(trained, net)),
    }
    views = {"a": {"signal": {"gain": 0.2}}, "spoiled": spoiled}
    kinds = {"sparse": {"type": "random", "ratio": 0.3}, "dense": {"type": "random", "ratio": 0.7}}
    return Pretraining(net, objectives, views, {"few": Budget(visible=4), "kinds": Mixture(kinds=kinds)})


def self_distillation() -> Pretraining:
    """DINO, iBOT, KoLeo and Gram with multi-crop, balanced and centred; Gram teachers from the second step on."""
    net = model()
    head = distillation.HeadConfig(prototypes=12, hidden=16, bottleneck=8, layers=2)
    gram = GramConfig(first=1, every=1, tokens="unmasked", clamp="both")
    low = {"weight": 0.2}  # at the full weights the loss is 39, of which float32 resolves only 4e-6
    shared: dict[str, Any] = {"head": head, "koleo_weight": 0.1, "gram": gram, **low}
    views: dict[str, Any] = {"global_views": ["a", "b"], "local_views": ["c"]}
    objectives = {
        "balanced": distillation.Config(tower="signal", masks=["half"], **views, **shared),
        "centred": distillation.Config(
            tower="signal", masks=["half", "few"], patch_head=head, targets="centring", **views, **shared
        ),
        "nodes": distillation.Config(tower="graph", global_views=["clean", "b"], masks=["half"], head=head, **low),
        "regions": distillation.Config(
            tower="signal", head=head, patch_head=head, region_weight=0.5, instance_weight=0.5, **views, **low
        ),
        "cells": distillation.Config(
            tower="table", global_views=["clean"], masks=["half"], head=head, class_weight=0.0, **low
        ),
    }
    gains = {"a": {"signal": {"gain": 0.2}}, "c": {"signal": {"gain": 0.9}}}
    gains["b"] = {"signal": {"gain": 0.5}, "graph": {"drop_edges": 0.3}}
    masks = {"half": Random(ratio=0.5), "few": Random(ratio=0.3)}
    return Pretraining(net, {n: distillation.Distillation(c, net) for n, c in objectives.items()}, gains, masks)
