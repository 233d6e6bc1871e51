"""Tokenizers: a tower whose tokens are brought to codes, of which a decoder makes the patches again.

The encoder sees all patches; each of its tokens goes through a linear map into a quantiser (`mmssl.models.quantisers`),
the codes through a shallow decoder, which predicts the modality's own target of every patch (how they are learned:
`.parts.learned`). BEiT's tokenizer (Bao et al. 2022) is one of pixels, EEGFormer (Chen et al. 2024) one of spectra,
with a transformer as encoder. The linear map and the books become a part of the model: `mmssl embed --codes` writes the
ids, and another recipe's `mae` predicts them (`codes: {of: codes, from: THIS_RUN}`).

Example::

    objectives:
      tokenizer: {tower: eeg, target: spectrum, size: 256, decoder: {depth: 2}}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import UserError, nearest
from ..models.codes import Codes
from ..models.initialization import init_weights
from .base import Loss
from .options.tokenizer import CodeDecoderConfig, Config
from .parts.codes import Coded, book_spec
from .parts.learned import CodePart

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step

__all__ = ["CodeDecoderConfig", "Config", "Tokenizer"]


class TokenCodes(CodePart):
    """The codes of a tower's own tokens, of which its patches are made again."""

    def __init__(self, config: Config, model: MMSSLModel, name: str) -> None:
        super().__init__()
        self.config, self.name = config, name
        self.finished, self.topics, self.kept, self.where = False, None, True, "objective tokenizer: "
        self.samples = 0 if config.kind == "scalar" else config.samples
        about = {"modality": name, "of": "tokens", "target": None, "layer": None}
        self.codes = Codes(about | book_spec(config, config, model.tower(config.tower).width, self.where))
        modality = model.modality(name)
        self.learn_by(config, modality, modality.pred_width(config.target))

    def features(self, step: Step, view: str = "clean") -> Tensor:
        """The tower's output."""
        return step.encode(self.config.tower, view).tokens[self.name]

    def error(self, step: Step, view: str, made: Tensor) -> Tensor:
        """The modality's own score of its target."""
        kind, patches = self.config.target, step.patches(self.name, view)
        return step.model.modality(self.name).score(made, step.target(self.name, view, kind), patches, kind)


class Tokenizer(Coded):
    """A tower's tokens as codes, of which its patches are made again."""

    separable = True

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        names = list(model.tower(config.tower).modalities)
        if len(names) > 1:
            raise UserError(
                f"objective tokenizer: found tower '{config.tower}' of {', '.join(names)}, expected one of a single "
                f"modality: its codes must not depend on what others say"
            )
        self.name = names[0]
        kinds = model.modality(self.name).targets
        if config.target is not None and config.target not in kinds:
            raise UserError(
                f"objective tokenizer: target: found '{config.target}', expected one of {', '.join(kinds)}"
                f"{nearest(config.target, kinds)}"
            )
        self.part = TokenCodes(config, model, self.name)
        init_weights(self.part)

    def counts(self, step: Step) -> dict[str, Tensor]:
        """All patches, under the names of all losses."""
        return dict.fromkeys(self.part.terms(), step.patches(self.name, self.config.view).valid)

    def forward(self, step: Step) -> Loss:
        """The modality's own score of what the decoder makes of the codes, and the commitment; logs both."""
        total, parts = self.part.learn(step, self.config.view)
        return Loss(total=total, parts=parts)
