"""What a format says of the folder it has written: how it is loaded, and what it must compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

DTYPES = ("float32", "bfloat16")


@dataclass
class Trial:
    """One input.

    inputs: tensors for the stock model; outputs: name -> dotted path in what it returns; expect: dtype -> the same
    outputs of our model; method: what is called, "" the model itself; positional: inputs go without names;
    exact_inputs: those that stay float32; load: fields of the configuration that the class is loaded with.
    """

    name: str
    inputs: dict[str, Tensor]
    outputs: dict[str, str]
    expect: Callable[[torch.dtype], dict[str, Tensor]]
    kwargs: Mapping[str, object] = field(default_factory=dict)
    arguments: Sequence[object] = field(default_factory=list)
    method: str = ""
    positional: bool = False
    dtypes: Sequence[str] = DTYPES
    exact_inputs: Sequence[str] = ()
    load: Mapping[str, object] = field(default_factory=dict)


@dataclass
class Pipeline:
    """A `transformers.pipeline` on one input, and what it must give: a tensor, or a score a label.

    shuffled: the class returns the tokens behind the first in a random order; their mean is compared.
    """

    task: str
    input: object
    expect: Tensor | dict[str, float]
    options: Mapping[str, object] = field(default_factory=dict)
    kwargs: Mapping[str, object] = field(default_factory=dict)
    shuffled: bool = False


@dataclass
class Job:
    """How a folder is loaded and proven. library: "transformers", "timm", "open_clip", "onnx" or
    "sentence_transformers"; cls: transformers' class; usage: Python that loads it, for the card; notes: what a user of
    the folder must know, a line each; without_pipeline: why there is none; adapter: of PEFT, that is put on."""

    library: str
    cls: str
    trials: list[Trial]
    usage: str
    pipelines: list[Pipeline] = field(default_factory=list)
    without_pipeline: str = ""
    notes: list[str] = field(default_factory=list)
    auto: bool = True
    file: str = ""
    pipeline_tag: str | None = "image-feature-extraction"
    tags: list[str] = field(default_factory=list)
    adapter: str = ""
