"""`transformers.pipeline` on the folders of mmssl: embeddings, zero-shot classes, and the answers of a task's head.

`config.json` names it for some tasks (`custom_pipelines`): `pipeline(TASK, FOLDER, trust_remote_code=True)` finds it as
`AutoModel` finds the model; `pipeline(TASK, FOLDER, pipeline_class=mmssl.MMSSLPipeline)` needs no trust.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Pipeline

from ..errors import UserError
from ..models.loader import PIPELINES
from ..models.locating import TASK
from ..models.modeling_mmssl import MMSSLModel
from ..models.processing_mmssl import MMSSLProcessor
from .task import TaskModel, load_task

if TYPE_CHECKING:
    from torch import Tensor

TOP = {"text-classification": 1}
"""Task -> how many answers transformers gives of it by default, where these are not five."""
ONE = (str, bytes, Path, Mapping)
"""What is one sample, and not several."""


class MMSSLPipeline(Pipeline):
    """One of `PIPELINES` on a folder that mmssl wrote. Called with one sample or with several, as all pipelines are.

    Feature extraction gives (1, n, D) tokens as lists (`return_tensors=True`: a tensor), with `pool=True` the (1, E)
    embedding that `mmssl embed` writes; classification `[{"label", "score"}, ...]`, the likeliest first, of which
    `top_k`; zero-shot classification the same of `candidate_labels`, put into `hypothesis_template`. `modality` says
    which one is meant where a model has several.
    """

    _load_processor = _load_tokenizer = _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = _load_video_processor = False  # type: ignore[assignment]
    model: MMSSLModel

    def __init__(self, model: MMSSLModel, task: str = "feature-extraction", **kwargs: Any) -> None:
        if not isinstance(model, MMSSLModel):
            raise UserError(f"pipeline: found a {type(model).__name__}, expected a model of mmssl")
        super().__init__(model=model, task=task, **kwargs)
        self.place = str(model.adapter_from or model.name_or_path)
        wanted = task.partition("-")[0] if task in PIPELINES else "feature"
        self.kind = "image" if wanted == "zero" else None if wanted == "feature" else wanted
        if task.startswith("zero-shot"):
            self._check_pair()
        elif task.endswith("-classification"):
            self.model = self.task_model.model
        self.name_of(self.options.get("modality"))

    @cached_property
    def reader(self) -> MMSSLProcessor:
        """The preprocessors in the folder."""
        return MMSSLProcessor.from_pretrained(self.place)

    @cached_property
    def task_model(self) -> TaskModel:
        """The head in the folder with its encoder. UserError where there is none."""
        if not (Path(self.place) / TASK).is_file() and Path(self.place).is_dir():
            raise UserError(
                f"pipeline: {self.place} is an encoder without the head of a task: mmssl finetune {self.place} "
                f"--data DATA --label COLUMN makes one; its embeddings are those of task='feature-extraction'"
            )
        found = load_task(self.place)
        found.model.to(self.device)  # type: ignore[arg-type]
        found.head.to(self.device)
        return found

    @property
    def options(self) -> dict[str, Any]:
        """What the pipeline was made with for every call."""
        return self._preprocess_params

    def name_of(self, modality: str | None) -> str:
        """The modality that a call is about. UserError where the model has none of the task's, or several."""
        types = self.reader.types
        names = [n for n in self.model.modality_names if self.kind is None or types.get(n, n) == self.kind]
        if modality in names:
            return str(modality)
        if modality is not None or len(names) != 1:
            found = f"found modality={modality!r}" if modality or names else f"{self.task}: found a model"
            known = ", ".join(self.model.modality_names)
            raise UserError(
                f"pipeline: {found}, {self.place} reads {known}" + ("; say which by modality=" * bool(names))
            )
        return names[0]

    def __call__(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Answers: a sample's, of a list a list of them, of a generator or data set a generator."""
        for name in ("images", "image", "text", "audio", "videos", "video"):
            inputs = kwargs.pop(name, None) if inputs is None else inputs
        if inputs is None:
            raise UserError("pipeline: found no sample, expected one or several")
        size = kwargs.pop("batch_size", None) or self._batch_size or 1
        options = {**self.options, **{k: v for k, v in kwargs.items() if k != "num_workers"}}
        several = isinstance(inputs, Iterable) and not isinstance(inputs, ONE) and not hasattr(inputs, "__array__")
        if not several:
            return self.answers([inputs], **options)[0]
        found = self._in_batches(iter(inputs), size, options)
        return list(found) if isinstance(inputs, (list, tuple)) else found

    def _in_batches(self, samples: Iterator[Any], size: int, options: Mapping[str, Any]) -> Iterator[Any]:
        while some := list(islice(samples, size)):
            yield from self.answers(some, **options)

    def answers(self, samples: Sequence[Any], **options: Any) -> list[Any]:
        """One answer a sample."""
        if unknown := set(options) - {"pool", "return_tensors", "top_k", "modality", *ZERO_SHOT}:
            raise UserError(f"pipeline: {self.task} has no option {', '.join(sorted(unknown))}")
        samples = [_as_read(sample) for sample in samples]
        name = self.name_of(options.get("modality"))
        if self.task.startswith("zero-shot"):
            return self._zero_shot(name, samples, options)
        if self.task.endswith("-classification"):
            top = options.get("top_k", TOP.get(self.task, 5))
            return [_ranked(answer, top) for answer in self.task_model.predict(**{name: samples})]
        if options.get("pool"):
            rows = torch.from_numpy(self.model.encode(samples, name, processor=self.reader))
            found = [row[None] for row in rows]
        else:
            found = [self._tokens(name, sample) for sample in samples]
        return found if options.get("return_tensors") else [one.tolist() for one in found]

    @torch.inference_mode()
    def _tokens(self, name: str, sample: object) -> Tensor:
        """(1, n, D) by itself, so that there is no padding."""
        inputs = {key: value.to(self.model.device) for key, value in self.reader.preprocessors[name]([sample]).items()}
        output = self.model.encode_batch({name: inputs})
        tokens = output.last_hidden_state if output.last_hidden_state is not None else (output.tokens or {})[name]
        return tokens.float().cpu()

    def _check_pair(self) -> None:
        """UserError unless pictures and words of the model share an embedding."""
        types = set(self.reader.types.values())
        if not {"image", "text"} <= types or self.model.config.logit_scale is None:
            raise UserError(
                f"pipeline: {self.place} reads {', '.join(self.model.modality_names)} and was not trained on pairs of "
                "pictures and texts (objective contrastive), which zero-shot classification compares"
            )

    def _zero_shot(self, name: str, samples: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
        labels, template = options.get("candidate_labels"), options.get("hypothesis_template", "This is a photo of {}.")
        labels = labels.split(",") if isinstance(labels, str) else labels
        if not labels or "{}" not in template:
            raise UserError("pipeline: expected candidate_labels=[...], and '{}' in the hypothesis_template")
        words = next(n for n in self.model.modality_names if self.reader.types[n] == "text")
        prompts = [template.replace("{}", label.strip()) for label in labels]
        texts = torch.from_numpy(self.model.encode(prompts, words, processor=self.reader))
        rows = torch.from_numpy(self.model.encode(samples, name, processor=self.reader))
        config = self.model.config
        logits = torch.tensor(float(config.logit_scale or 0.0)).exp() * rows @ texts.T
        scores = logits.softmax(-1) if config.logit_bias is None else (logits + config.logit_bias).sigmoid()
        return [_sorted({label.strip(): s for label, s in zip(labels, of, strict=True)}) for of in scores.tolist()]

    # what transformers asks of a pipeline; the work is done in `__call__`, which needs no batches of tensors

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return kwargs, {}, {}

    def preprocess(self, inputs: Any, **options: Any) -> Any:  # type: ignore[override]
        """The sample as it is."""
        return inputs

    def _forward(self, inputs: Any, **options: Any) -> Any:  # type: ignore[override]
        return self.answers([inputs], **self.options)[0]

    def postprocess(self, outputs: Any, **options: Any) -> Any:  # type: ignore[override]
        """The answer as it is."""
        return outputs


ZERO_SHOT = ("candidate_labels", "hypothesis_template")


def _as_read(sample: Any) -> Any:
    """A sample as modalities read it; pipelines of sounds call their numbers "raw"."""
    if isinstance(sample, Mapping) and "raw" in sample:
        return {"array": sample["raw"], **{key: value for key, value in sample.items() if key != "raw"}}
    return sample


def _ranked(answer: Mapping[str, Any] | None, top: int | None) -> list[dict[str, Any]] | None:
    """`TaskModel.predict`'s answer as pipelines give it; None for an absent sample."""
    if answer is None:
        return None
    scores = answer["scores"] if "scores" in answer else answer  # of regression the numbers themselves
    return _sorted(scores)[:top] if "scores" in answer else [{"label": k, "score": v} for k, v in scores.items()]


def _sorted(scores: Mapping[Any, float]) -> list[dict[str, Any]]:
    found = [{"label": str(label), "score": score} for label, score in scores.items()]
    return sorted(found, key=lambda one: -float(one["score"]))
