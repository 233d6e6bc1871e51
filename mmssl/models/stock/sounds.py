"""Encoders of raw sound (wav2vec 2.0, HuBERT, ...) as the stock class that a tower wraps: its extractor, its proof."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..waves import INPUT, WaveTower
from .exportable import Branch
from .job import Job, Trial

if TYPE_CHECKING:
    from transformers import Wav2Vec2FeatureExtractor


STATES = "output.last_hidden_state"
LENGTHS = (1.0, 2.37)
"""Sounds that are compared, in stretches of ten tokens."""


def extractor(part: Branch) -> Wav2Vec2FeatureExtractor:
    """Our preprocessing as a stock feature extractor."""
    from transformers import Wav2Vec2FeatureExtractor

    tower = part.tower
    assert isinstance(tower, WaveTower)
    return Wav2Vec2FeatureExtractor(
        sampling_rate=int(part.modality.rate),
        do_normalize=part.modality.normalise == "sound",
        return_attention_mask=tower.masks,
    )


@contextlib.contextmanager
def as_it_came(part: Branch) -> Iterator[None]:
    """The wrapped model with the configuration that it came with, for the time of a `with`."""
    tower = part.tower
    if not isinstance(tower, WaveTower):
        yield
        return
    config: Any = tower.net["encoder"].config  # type: ignore[index]
    here = {key: getattr(config, key) for key in tower.usual}
    try:
        config.update(tower.usual)
        yield
    finally:
        config.update(here)


def obstacles(part: Branch) -> list[str]:
    """What stands in the way of the extractor, a clause each: a mean or deviation of the data."""
    state, sound = part.preprocessor.state, part.modality.normalise == "sound"
    if sound or (state["mean"], state["std"]) == (0.0, 1.0):
        return []
    return [
        f"modalities.{part.name}.normalise: found data, with mean {state['mean']:g} and std {state['std']:g}, expected "
        "sound, or mean 0 and std 1: the stock extractor knows no others"
    ]


def job(part: Branch, cls: str) -> Job:
    """How the folder is proven: sounds of several lengths, and of several in one batch where the class takes a mask."""
    tower = part.tower
    assert isinstance(tower, WaveTower)
    generator = torch.Generator().manual_seed(20)
    ten = tower.reach + 9 * tower.hop
    waves = [torch.randn(round(ten * length), generator=generator) for length in LENGTHS]
    trials = [_trial(part, [wave, -wave.flip(0)]) for wave in waves]
    if tower.masks:
        trials.append(_trial(part, waves[::-1]))
    together = "several in a batch with its mask" if tower.masks else "sounds of one length in a batch"
    return Job(
        "transformers",
        cls,
        trials,
        usage="\n".join(
            [
                f"from transformers import AutoFeatureExtractor, {cls}",
                "",
                f'model = {cls}.from_pretrained("PATH_OR_ID")',
                'extractor = AutoFeatureExtractor.from_pretrained("PATH_OR_ID")',
                f'output = model(**extractor(wave, sampling_rate={part.modality.rate}, return_tensors="pt"))  # (S,)',
            ]
        ),
        without_pipeline="transformers has no pipeline for the features of a sound",
        notes=[
            f"It was compared on {together}. "
            + part.said_of_embedding(f"{STATES}[:, 0]", STATES, f"the mean of `{STATES}` over what is no padding")
            + ".",
            *(
                []
                if tower.masks
                else ["Its first norm runs over time: padding would change the output of the whole sound."]
            ),
        ],
        pipeline_tag="feature-extraction",
    )


def _trial(part: Branch, waves: list[Tensor]) -> Trial:
    """One batch; of sounds of two lengths all tokens of the first, and the last of the second, are compared."""
    tower = part.tower
    assert isinstance(tower, WaveTower)
    lengths = torch.tensor([len(wave) for wave in waves])
    batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    inputs = {"waveform": batch, "length": lengths}
    values, _ = tower.waves(part.modality.patchify(inputs))
    values = torch.nn.functional.pad(values, (0, max(0, batch.shape[1] - values.shape[1])))[:, : batch.shape[1]]
    stock = {INPUT: values}
    even = bool((lengths == lengths[0]).all())
    if not even:
        stock["attention_mask"] = (torch.arange(batch.shape[1]) < lengths[:, None]).long()
    last = tower.tokens_in(int(lengths[-1])) - 1
    names = ["last_hidden_state"] if even else ["last_hidden_state.0", f"last_hidden_state.1.{last}"]

    def expect(dtype: torch.dtype) -> dict[str, Tensor]:
        used = part.changed(dtype)
        tokens = used.encode(inputs)
        found = tokens.tokens[used.name]
        return dict(zip(names, [found] if even else [found[0], found[1, last]], strict=True))

    said = " and ".join(f"{length}" for length in dict.fromkeys(lengths.tolist()))
    return Trial(f"sounds of {said} samples", stock, dict(zip(names, names, strict=True)), expect)
