"""With the same weights and the same mask our masked autoencoder of clips has VideoMAE's loss, to 1e-5."""

from __future__ import annotations

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from benchmarks.stock_weights import copy_videomae
from mmssl.draws import Draws
from mmssl.masking import split_by_order
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives import mae
from mmssl.objectives.pretraining import Pretraining
from mmssl.patches import Patches

SIZE, PATCH, FRAMES, TUBELET, WIDTH, DEPTH, HEADS, NARROW = 16, 8, 8, 2, 48, 2, 4, 36
COUNT = (FRAMES // TUBELET) * (SIZE // PATCH) ** 2
FPS = 8.0


def stock_model(channels: int) -> VideoMAEForPreTraining:
    torch.manual_seed(0)
    model = VideoMAEForPreTraining(
        VideoMAEConfig(
            image_size=SIZE,
            patch_size=PATCH,
            num_channels=channels,
            num_frames=FRAMES,
            tubelet_size=TUBELET,
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            decoder_hidden_size=NARROW,
            decoder_num_hidden_layers=2,
            decoder_num_attention_heads=HEADS,
            decoder_intermediate_size=4 * NARROW,
            norm_pix_loss=True,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def our_model(channels: int) -> MMSSLModel:
    tower = TowerConfig(width=WIDTH, depth=DEPTH, heads=HEADS, prefix=0, final_norm=False, norm_eps=1e-12)
    mean, std = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD) if channels == 3 else ([0.0], [1.0])
    video = {
        "type": "video",
        "size": [SIZE, SIZE],
        "tubelet": TUBELET,
        "patch": [PATCH, PATCH],
        "channels": channels,
        "mean": list(mean),
        "std": list(std),
        "fps": FPS,
        "positions": "index",
    }
    return MMSSLModel(MMSSLConfig(modalities={"video": video}, towers={"video": tower_spec(tower)}))


def clips(channels: int, contrast: float) -> torch.Tensor:
    """(3, T, C, H, W): noise whose tubelets and channels differ in brightness and in contrast. With little contrast a
    variance is as small as the number that keeps it from zero, and where that number stands shows."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(3, FRAMES, channels, SIZE, SIZE, generator=generator)
    spread = torch.linspace(0.2, 1.5, channels)[:, None, None]
    return (noise * spread + torch.linspace(-1, 1, channels)[:, None, None]) * contrast


@pytest.mark.parametrize("contrast", [1.0, 1e-4, 0.0])
@pytest.mark.parametrize("channels", [3, 1])
def test_the_loss_and_its_gradient_equal_videomae(channels, contrast):
    stock, model = stock_model(channels), our_model(channels)
    noise = torch.rand(3, COUNT, generator=torch.Generator().manual_seed(2))

    def same_mask(patches: dict[str, Patches], draws: Draws):
        return {"video": split_by_order(patches["video"], noise, 0.75)}

    decoder = mae.DecoderConfig(width=NARROW, depth=2, heads=HEADS)
    objective = mae.MAE(mae.Config(tower="video", mask="same", target={"video": "videomae"}, decoder=decoder), model)
    copy_videomae(model.tower("video"), "video", objective.decoders["video"], stock)
    pixels = clips(channels, contrast)
    times = (torch.arange(FRAMES) / FPS).expand(3, -1)
    inputs = {"pixel_values": pixels, "times": times}
    work = Pretraining(model, {"mae": objective}, {}, {"same": same_mask})
    loss = work({"video": inputs}, Draws(0, 3)).total
    kept = COUNT - int(COUNT * 0.75)
    hidden = noise.argsort(1).argsort(1) >= kept
    # in float64: it adds the channel's mean again before it takes the tubelet's away, which rounds little contrast
    expected = stock.double()(pixels.double(), bool_masked_pos=hidden).loss
    torch.testing.assert_close(loss.double(), expected, rtol=0, atol=1e-5)
    loss.backward()
    expected.backward()
    theirs = stock.videomae
    found = model.modality("video").proj.weight.grad
    wanted = theirs.embeddings.patch_embeddings.projection.weight.grad.flatten(1)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)
    first = theirs.encoder.layer[0].attention.attention
    qkv = torch.cat([p.weight.grad for p in (first.query, first.key, first.value)])
    found = model.tower("video").trunk.blocks[0].attention.qkv.weight.grad
    torch.testing.assert_close(found.double(), qkv, rtol=1e-4, atol=1e-5)
