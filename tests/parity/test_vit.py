"""Our trunk with stock weights gives the stock hidden states, and with the same mask the same MAE loss, to 1e-5."""

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel

from benchmarks.stock_weights import copy_mae_decoder, copy_vit
from mmssl.draws import Draws
from mmssl.masking import split_by_order
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives import mae
from mmssl.objectives.pretraining import Pretraining
from mmssl.patches import Patches

SIZE, PATCH, CHANNELS, WIDTH, DEPTH, HEADS = 32, 8, 3, 48, 3, 4
STOCK = {
    "image_size": SIZE,
    "patch_size": PATCH,
    "num_channels": CHANNELS,
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH,
    "initializer_range": 0.05,
}


def ours(positions: str, norm_eps: float = 1e-12) -> MMSSLModel:
    tower = TowerConfig(width=WIDTH, depth=DEPTH, heads=HEADS, norm_eps=norm_eps)
    image = {
        "type": "image",
        "size": [SIZE, SIZE],
        "patch": [PATCH, PATCH],
        "channels": CHANNELS,
        "mean": [0.5] * CHANNELS,
        "std": [0.25] * CHANNELS,
        "positions": positions,
    }
    return MMSSLModel(MMSSLConfig(modalities={"image": image}, towers={"image": tower_spec(tower)}))


def mae_table(width: int, side: int) -> torch.Tensor:
    """MAE's fixed 2-D sine-cosine table (1, 1 + side^2, width) in float64, written from its formula: half of the
    channels for the column, half for the row, CLS at zero. transformers 5.23 leaves both tables at zero."""
    table = np.zeros((1 + side * side, width))
    omega = 1 / 10000 ** (np.arange(width // 4) / (width / 4))
    for row in range(side):
        for column in range(side):
            parts = [f(at * omega) for at in (column, row) for f in (np.sin, np.cos)]
            table[1 + row * side + column] = np.concatenate(parts)
    return torch.from_numpy(table)[None].float()


@pytest.fixture
def pixels():
    return torch.randn(4, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def test_hidden_states_equal_vit(pixels):
    torch.manual_seed(0)
    stock = ViTModel(ViTConfig(**STOCK), add_pooling_layer=False).eval()
    model = ours("learned").eval()
    copy_vit(model.towers["image"], "image", stock)
    with torch.no_grad():
        expected = stock(pixels, output_hidden_states=True)
        encoded = model.towers["image"](
            {"image": model.modality("image").patchify({"pixel_values": pixels})}, layers=(1, 2, 3)
        )
        output = model(image_pixel_values=pixels)
    torch.testing.assert_close(output.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-5)
    for layer in (1, 2):
        torch.testing.assert_close(
            encoded.layers[layer]["image"], expected.hidden_states[layer][:, 1:], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("norm_pix", [True, False])
def test_mae_loss_and_gradient_equal_vit_mae(pixels, norm_pix):
    torch.manual_seed(0)
    config = ViTMAEConfig(
        **STOCK,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=128,
        mask_ratio=0.75,
        norm_pix_loss=norm_pix,
    )
    stock = ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        stock.vit.embeddings.position_embeddings.copy_(mae_table(WIDTH, SIZE // PATCH))
        stock.decoder.decoder_pos_embed.copy_(mae_table(32, SIZE // PATCH))
    model = ours("sincos")
    noise = torch.rand(4, (SIZE // PATCH) ** 2)

    def same_mask(patches: dict[str, Patches], draws: Draws):
        return {"image": split_by_order(patches["image"], noise, 0.75)}

    objective = mae.MAE(
        mae.Config(
            tower="image",
            mask="same",
            target={"image": "normalised" if norm_pix else "pixels"},
            decoder=mae.DecoderConfig(width=32, depth=2, heads=4),
        ),
        model,
    )
    copy_vit(model.towers["image"], "image", stock.vit)
    copy_mae_decoder(objective.decoders["image"], stock.decoder, CHANNELS, PATCH)
    work = Pretraining(model, {"mae": objective}, {}, {"same": same_mask})
    loss = work({"image": {"pixel_values": pixels}}, Draws(0, 4))
    expected = stock(pixels, noise=noise).loss
    torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-5)
    loss.total.backward()
    expected.backward()
    conv = stock.vit.embeddings.patch_embeddings.projection.weight.grad
    torch.testing.assert_close(model.modality("image").proj.weight.grad, conv.flatten(1), rtol=1e-4, atol=1e-5)
    first = stock.vit.layers[0].attention
    qkv = torch.cat([p.weight.grad for p in (first.q_proj, first.k_proj, first.v_proj)])
    torch.testing.assert_close(
        model.towers["image"].trunk.blocks[0].attention.qkv.weight.grad, qkv, rtol=1e-4, atol=1e-5
    )
