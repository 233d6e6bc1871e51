"""Masked autoencoding, of one modality or several in one tower.

Dropping mode is MAE (He et al. 2022; facebookresearch/mae): the encoder sees the visible patches, a narrow decoder
predicts the masked ones. Replacing mode puts a mask token in their place: SimMIM (Xie et al. 2022) and masked language
modelling, where `replacement` leaves some masked ids as they are and swaps others (BERT's 80-10-10). With a tower of
several modalities it is joint masked modelling as in M3AE (Chen et al. 2022): each modality has its own share of the
mask, its own decoder, possibly from an intermediate layer, and sees the others in the trunk. A `budget` mask divides
visible patches between them (MultiMAE, 4M). `skips` lets the decoder look at earlier blocks of the encoder, and several
`towers` meet in a `fusion` encoder between them and their decoders (HiCMAE, Sun et al. 2024, whose blocks 3, 6 and 9,
counted from 0, are `[4, 7, 10]` here, and are placed as the decoder's own tokens: `skips_placed`). Without a mask, what
a corrupted view overwrote is reconstructed (GMML, Atito et al. 2021; see `mmssl.masking.corruption`). With `codes`, ids
of the patches are predicted in place of numbers, by cross-entropy: HuBERT, BEiT, MERT (see `.parts.codes`). They may be
learned in the same run (`learn`, see `.parts.learned`): what makes the codes gets no gradient from their prediction.

With `beside_view` the decoder also attends to another view, encoded whole by the same tower: cross-view completion
(CroCo, Weinzaepfel et al. 2022; naver/croco), between two crops, or two columns.

Example::

    masks: {half: {type: random, ratio: {image: 0.75, text: 0.15}}}
    objectives:
      mae: {tower: joint, mask: half, mode: {image: drop, text: replace}, decoders: {image: {width: 128, depth: 2}}}

    masks: {most: {type: random, ratio: {video: 0.9, audio: 0.8}}}
    objectives:
      hicmae: {type: mae, towers: [video, audio], mask: most, fusion: {depth: 2}, decoder: {skips: [4, 8, 12]}}

    views: {other: {image: {column: other}}}
    objectives: {croco: {type: mae, tower: image, mask: most, beside_view: other}}

    views: {spoiled: {image: {corrupt: {share: [0.5, 0.75], fill: [noise, other]}}}}
    objectives:
      gmml: {type: mae, tower: image, view: spoiled, target: {image: pixels}, decoder: {depth: 0}}

    masks: {spans: {type: span, ratio: 0.5}}
    objectives:
      hubert: {type: mae, tower: audio, mask: spans, mode: replace, codes: {audio: {size: 100}}, decoder: {depth: 0}}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..masking.replacement import Replacement
from ..models.decoder import Beside
from ..models.initialization import init_weights
from ..models.message_tower import MessageDecoder
from ..models.options import MESSAGES
from ..models.tower import Encoded
from ..options import changed
from ..patches import Patches, Split, gather
from .base import Loss, Reconstruction
from .options.mae import Config, DecoderConfig, FusionConfig
from .parts.between import found_in, hidden_target
from .parts.codes import Coded, CodeTarget
from .parts.decoders import TokenHead, decoder_of
from .parts.fusion import Fusion
from .parts.learned import CodePart
from .parts.overwritten import overwritten

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step

__all__ = ["MAE", "Config", "DecoderConfig", "FusionConfig"]


class MAE(Coded):
    """Masked autoencoding of the modalities that the mask names, of one tower or of several that are fused."""

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        self.towers = self._towers(config)
        self.tower_of = {name: t for t in self.towers for name in model.tower(t).modalities}
        self.names = list(self.tower_of)
        self.mode = {n: config.mode if isinstance(config.mode, str) else config.mode.get(n, "drop") for n in self.names}
        self._refuse_unknown(config)
        self._refuse_replacement(config, model)
        self.shown: dict[str, str | Replacement] = self.mode | config.replacement
        self.fusion = self._fusion(config, model)
        codes = {n: CodeTarget(o, model, n, f"objective mae: codes.{n}.") for n, o in config.codes.items()}
        self.codes = nn.ModuleDict(codes)
        self.decoders = nn.ModuleDict()
        for name in self.names:
            decoder = config.decoders.get(name, config.decoder)
            if config.mask is None:
                self.mode[name] = "replace"  # nothing is dropped
            self._refuse_decoder(name, decoder, model)
            modality, tower = model.modality(name), model.tower(self.tower_of[name])
            width = codes[name].width if name in codes else modality.pred_width(config.target.get(name))
            where, crosses = f"objective mae: decoder of '{name}'", config.beside_view is not None
            self.decoders[name] = decoder_of(modality, decoder, tower.width, width, where, crosses)
        used = {n: config.decoders.get(n, config.decoder) for n in self.names}
        self.layer, self.skips = {n: d.layer for n, d in used.items()}, {n: sorted(d.skips) for n, d in used.items()}
        wanted = {layer for d in used.values() for layer in [d.layer, *d.skips] if layer is not None}
        self.layers = tuple(sorted(wanted))
        init_weights(nn.ModuleList([*([self.fusion] if self.fusion is not None else []), self.decoders]))

    @staticmethod
    def _towers(config: Config) -> list[str]:
        if config.tower is not None:
            if config.fusion is not None:
                raise UserError("objective mae: fusion needs several towers, found one; name them in towers")
            return [config.tower]
        if len(config.towers) < 2 or len(set(config.towers)) < len(config.towers) or config.fusion is None:
            without = "" if config.fusion else " without fusion"
            raise UserError(
                f"objective mae: found towers: {config.towers}{without}, expected two or more different "
                f"ones and fusion; a single one is named as tower"
            )
        return config.towers

    def _fusion(self, config: Config, model: MMSSLModel) -> Fusion | None:
        if config.fusion is None:
            return None
        widths = {t: model.tower(t).width for t in self.towers}
        width, heads = widths[self.towers[0]], config.fusion.heads
        if len(set(widths.values())) > 1 or width % heads:
            raise UserError(
                f"objective mae: fusion: found towers of width {widths} and {heads} heads, expected one "
                f"width that the heads divide"
            )
        return Fusion(self.towers, width, config.fusion.depth, heads)

    def _refuse_decoder(self, name: str, decoder: DecoderConfig, model: MMSSLModel) -> None:
        """UserError for a decoder that the modality's tower, the mode or the fusion cannot have."""
        config, at = self.config, self.tower_of[name]
        tower = model.tower(at)
        if self.mode[name] == "drop" and not tower.drops:
            raise UserError(
                f"objective mae: tower '{at}' wraps a model that must see all patches: "
                f"mode 'drop' cannot work, use mode: replace"
            )
        if config.mask is not None and self.mode[name] == "replace" and not tower.replaces:
            raise UserError(f"objective mae: tower '{at}' wraps a model that takes no mask token")
        if self.mode[name] == "drop" and not decoder.depth:
            raise UserError("objective mae: mode 'drop' needs a decoder of depth >= 1, found 0")
        if config.mask is None and decoder.depth:
            raise UserError(
                f"objective mae: without a mask all patches are seen and reconstructed from their own "
                f"tokens: decoder.depth of '{name}' must be 0, found {decoder.depth}"
            )
        if config.beside_view is not None and (not decoder.depth or decoder.trunk in MESSAGES):
            raise UserError(
                f"objective mae: beside_view: found '{config.beside_view}', but the decoder of '{name}' cannot look at "
                "it; expected decoder.trunk: transformer and a depth of 1 or more"
            )
        if max([decoder.layer or 0, *decoder.skips]) > tower.depth:
            raise UserError(
                f"objective mae: decoder.layer is {decoder.layer} and decoder.skips {decoder.skips}, "
                f"but tower '{at}' has {tower.depth} blocks"
            )
        if len(decoder.skips) > decoder.depth:
            raise UserError(
                f"objective mae: decoder.skips are {decoder.skips}, but the decoder of '{name}' has "
                f"{decoder.depth} blocks to look at them"
            )
        if self.fusion is not None and decoder.layer is not None:
            raise UserError(
                f"objective mae: decoder.layer of '{name}' is {decoder.layer}, but with fusion what is "
                f"decoded comes behind the towers' last block; leave it out"
            )
        if name in config.codes and config.codes[name].visible and (self.mode[name] == "drop" or decoder.depth):
            raise UserError(
                f"objective mae: codes.{name}.visible: found {config.codes[name].visible:g}, expected 0, or mode: "
                f"replace and decoder.depth: 0: another decoder predicts hidden patches alone"
            )

    def _refuse_unknown(self, config: Config) -> None:
        if set(self.names) <= set(config.decoders) and changed(config, "decoder"):
            raise UserError(
                "objective mae: decoder: found options, which have no effect: every modality of "
                f"{self._where()} has its own in decoders"
            )
        for option_name in ("target", "codes", "decoders", "weights", "mode", "replacement"):
            value = getattr(config, option_name)
            for name in value if isinstance(value, dict) else ():
                if name not in self.names:
                    raise UserError(
                        f"objective mae: {option_name} names modality '{name}', but {self._where()} "
                        f"has {', '.join(self.names)}"
                    )

    def _where(self) -> str:
        return " and ".join(f"tower '{t}'" for t in self.towers)

    def _refuse_replacement(self, config: Config, model: MMSSLModel) -> None:
        for name in config.replacement:
            if self.mode[name] != "replace":
                raise UserError(
                    f"objective mae: replacement names modality '{name}', whose mode is "
                    f"'{self.mode[name]}': masked patches that are dropped are not shown at all"
                )
            if not model.modality(name).ids:
                raise UserError(f"objective mae: replacement names modality '{name}', which has no ids to draw from")

    separable = True

    def counts(self, step: Step) -> dict[str, Tensor]:
        """Modality -> the patches, or the numbers of a corrupted view, that are reconstructed."""
        c = self.config
        if c.mask is None:
            return {n: counted for n, (_, counted) in overwritten(step, c, self.names, self._where()).items()}
        found = {f"{n}.{t}": step.patches(n, c.target_view).valid for n, part in self._learned() for t in part.terms()}
        for name, split in self._splits(step, c.mask).items():
            found[name] = self._counted(step, name, split.hide.flatten(1), self._queries(step, name, split))
            if self._visible(name):
                seen = step.patches(name, c.view).take(split.keep, split.full)
                found[f"{name}.visible"] = self._counted(step, name, split.keep, seen)
            if name in c.codes and c.codes[name].topics is not None:
                found[f"{name}.topic"] = self._both(step, name)
        return found

    def _learned(self) -> list[tuple[str, CodePart]]:
        """The modalities whose codes are learned beside, with these."""
        return [(part.name, part) for part in self._codes() if part.learning is not None]

    def _visible(self, name: str) -> float:
        """Weight of the loss of visible patches."""
        codes = self.config.codes.get(name)
        return codes.visible if codes is not None else 0.0

    def forward(self, step: Step) -> Loss:
        """The weighted sum over modalities of the error on what the encoder did not see; logs each of several."""
        c, encoded = self.config, self._encoded(step)
        if c.beside_view is not None:
            self._refuse_seen(step, c.beside_view)
        losses = self._corrupted(step, encoded) if c.mask is None else self._hidden(step, encoded, c.mask)
        total = torch.stack([c.weights.get(n, 1.0) * loss for n, loss in losses.items()]).sum()
        parts = {n: loss.detach() for n, loss in losses.items()} if len(losses) > 1 else {}
        for name, part in self._learned():
            learned, terms = part.learn(step, c.target_view, f"{name}.{{}}".format)
            total, parts = total + learned, parts | {f"{name}.{term}": value for term, value in terms.items()}
        return Loss(total=total, parts=parts)

    def reconstructs(self, step: Step) -> dict[str, Reconstruction]:
        """What is predicted of the patches that the mask, or a corrupted view, took; not where it is ids of codes."""
        c, encoded, found = self.config, self._encoded(step), dict[str, Reconstruction]()
        corrupted = overwritten(step, c, self.names, self._where()) if c.mask is None else {}
        for name, (_, counted) in corrupted.items():
            prediction = self.decoders[name](self._tokens(name, encoded[self.tower_of[name]]))
            every = torch.arange(counted.shape[1], device=counted.device).expand(counted.shape[:2])
            index = every.masked_fill(~counted.any(-1), -1)
            found[name] = Reconstruction(index, prediction, c.target.get(name), c.target_view)
        for name, split in ({} if c.mask is None else self._splits(step, c.mask)).items():
            if name not in self.codes:
                prediction, _ = self._predicted(step, name, split, encoded)
                index = found_in(step, name, c.target_view, split.hide.flatten(1), c.view)
                found[name] = Reconstruction(index, prediction, c.target.get(name), c.target_view)
        return found

    def _encoded(self, step: Step) -> dict[str, Encoded]:
        """What every tower makes of what it is shown; of several with what the fusion makes of that."""
        c = self.config
        encoded = {t: step.encode(t, c.view, c.mask, self.shown, layers=self.layers) for t in self.towers}
        return encoded if self.fusion is None else self.fusion(encoded)

    def _predicted(self, step: Step, name: str, split: Split, encoded: dict[str, Encoded]) -> tuple[Tensor, Patches]:
        """(what is predicted of the patches of one modality that the mask hides, those patches)."""
        whole, hide = step.patches(name, self.config.view), split.hide.flatten(1)
        queries = self._queries(step, name, split)
        norm = step.model.tower(self.tower_of[name]).normed
        seen = encoded[self.tower_of[name]], self._beside(step, name)
        return self._predict(name, *seen, whole, split.keep, hide, queries, norm), queries

    def _refuse_seen(self, step: Step, view: str) -> None:
        """UserError where the decoder would be shown what it is to reconstruct."""
        for name in self.names:
            for shown in (self.config.view, self.config.target_view):
                if step.patches(name, shown) is step.patches(name, view):
                    raise UserError(
                        f"objective mae: beside_view: found '{view}', which shows '{name}' as view '{shown}' does, so "
                        "that nothing is left to reconstruct; expected a view with another crop or column"
                    )

    def _corrupted(self, step: Step, encoded: dict[str, Encoded]) -> dict[str, Tensor]:
        """GMML's loss: the mean absolute error over all numbers that the view overwrote; all patches were seen."""
        c, losses = self.config, dict[str, Tensor]()
        for name, (target, counted) in overwritten(step, c, self.names, self._where()).items():
            prediction = self.decoders[name](self._tokens(name, encoded[self.tower_of[name]]))
            with torch.autocast(prediction.device.type, enabled=False):
                error = (prediction.float() - target.nan_to_num(0.0)).abs()
                losses[name] = step.mean(name, error, counted)
        return losses

    def _splits(self, step: Step, mask: str) -> dict[str, Split]:
        """Modality -> what the mask hides of it."""
        splits = {name: split for t in self.towers for name, split in step.splits(t, mask, self.config.view).items()}
        if not splits:
            raise UserError(f"objective mae: mask '{mask}' hides nothing of {self._where()}")
        return splits

    def _queries(self, step: Step, name: str, split: Split) -> Patches:
        """The hidden patches of one modality."""
        return step.patches(name, self.config.view).take(split.hide.flatten(1), split.full)

    def _hidden(self, step: Step, encoded: dict[str, Encoded], mask: str) -> dict[str, Tensor]:
        """The loss of the patches that the mask hides, one a modality."""
        c, losses = self.config, dict[str, Tensor]()
        for name, split in self._splits(step, mask).items():
            prediction, queries = self._predicted(step, name, split, encoded)
            if name in self.codes:
                losses[name] = self._coded(step, name, split, prediction, queries, encoded[self.tower_of[name]])
                continue
            kind = c.target.get(name)
            target = hidden_target(step, name, c.target_view, kind, split, queries, c.view)
            with torch.autocast(prediction.device.type, enabled=False):
                score = step.model.modality(name).score(prediction.float(), target, queries, kind)
                # over all hidden patches of the global batch, so that samples with more of them weigh more
                losses[name] = step.mean(name, score, self._counted(step, name, split.hide.flatten(1), queries))
        return losses

    def _coded(
        self, step: Step, name: str, split: Split, prediction: Tensor, queries: Patches, encoded: Encoded
    ) -> Tensor:
        """The loss of predicted ids: of hidden patches, of visible ones and of the sample's topic by weights."""
        c, codes, visible = self.config, self.codes[name], self._visible(name)
        assert isinstance(codes, CodeTarget)
        hide, keep = (found_in(step, name, c.target_view, at, c.view) for at in (split.hide.flatten(1), split.keep))
        ids = codes.ids(step, c.target_view)
        with torch.autocast(prediction.device.type, enabled=False):
            score = codes.score(prediction.float(), gather(ids, hide))
            loss = step.mean(name, score, queries.valid & (hide >= 0))
        if codes.topics is not None:
            topic = step.mean(f"{name}.topic", codes.topic_score(encoded.pooled(name), ids), self._both(step, name))
            loss = loss + codes.options.topic_weight * topic
        if not visible:
            return loss
        seen = step.patches(name, c.view).take(split.keep, split.full).valid & (keep >= 0)
        prediction = self.decoders[name](gather(self._tokens(name, encoded), split.keep))
        with torch.autocast(prediction.device.type, enabled=False):
            score = codes.score(prediction.float(), gather(ids, keep))
            return loss + visible * step.mean(f"{name}.visible", score, seen)

    def _both(self, step: Step, name: str) -> Tensor:
        """(B,) which samples are seen and have a target."""
        return step.patches(name, self.config.view).present & step.patches(name, self.config.target_view).present

    def _counted(self, step: Step, name: str, index: Tensor, of: Patches) -> Tensor:
        """(B, k) which patches `of` this index have a target, which another column may lack."""
        c = self.config
        return of.valid & (found_in(step, name, c.target_view, index, c.view) >= 0)

    def _beside(self, step: Step, name: str) -> Beside | None:
        """What the tower makes of the other view, unmasked."""
        if self.config.beside_view is None:
            return None
        other = step.encode(self.tower_of[name], self.config.beside_view, layers=self.layers)
        return Beside(self._tokens(name, other), other.patches[name])

    def _tokens(self, name: str, encoded: Encoded) -> Tensor:
        layer = self.layer[name]
        return encoded.tokens[name] if layer is None else encoded.layers[layer][name]

    def _predict(
        self,
        name: str,
        encoded: Encoded,
        beside: Beside | None,
        whole: Patches,
        keep: Tensor,
        hide: Tensor,
        queries: Patches,
        norm: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """(B, m, out) for the hidden patches of one modality; norm: the tower's last one, for `skips_placed`."""
        tokens, decoder, seen = self._tokens(name, encoded), self.decoders[name], encoded.patches[name]
        if isinstance(decoder, TokenHead):
            # mask tokens were in the encoder: its output at the hidden places is decoded as it is
            return decoder(gather(tokens, hide))
        if isinstance(decoder, MessageDecoder):
            if self.mode[name] == "replace":  # what the encoder made of hidden nodes is masked again
                tokens, seen = gather(tokens, keep) * (keep >= 0)[..., None], whole.take(keep)
            return decoder(tokens, seen, queries, whole.take(torch.cat([keep, hide], 1)))
        together = None
        if whole.links is not None:
            every = torch.arange(whole.count, device=hide.device).expand(whole.batch, -1)
            together = whole.take(torch.cat([every if self.mode[name] == "replace" else keep, hide], 1))
        layers = [encoded.layers[layer][name] for layer in self.skips[name]]
        if norm is not None and self.config.decoders.get(name, self.config.decoder).skips_placed:
            layers = [norm(layer) for layer in layers]
        return decoder(encoded.prefix, tokens, seen, queries, together, layers=layers, beside=beside)
