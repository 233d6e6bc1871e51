"""Each modality's reading and preparing against the field's own tools, interleaved in one run.

Both sides start from the same raw values (file bytes or paths, strings, rows, graphs) and end at tensors or arrays of
one batch; each row says what the peer does. Prints a table with samples a second and the ratio: above 1, ours is
faster. Needs the real sets of the shared folder ($MMSSL_SHARED_DATA, or shared/data beside the repository).

    python -m benchmarks.readers [--rounds 7] [--only image audio ...]
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmssl.modality import load_modality

DATA = Path(os.environ.get("MMSSL_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@dataclass
class Race:
    """ours() and peer() make one batch of `samples` each."""

    what: str
    peer_is: str
    samples: int
    ours: Callable[[], Any]
    peer: Callable[[], Any]


def column(path: str, name: str, count: int) -> list[Any]:
    import pyarrow.parquet as parquet

    return parquet.read_table(DATA / path, columns=[name]).slice(0, count)[name].to_pylist()


def fitted(name: str, raw: list[Any], **options: Any) -> Any:
    package = load_modality(name)
    return package.Preprocessor(package.Config(**options)).fit(raw)


def image(folder: Path) -> Race:
    from PIL import Image
    from torchvision import transforms as T

    raw = column("flickr8k_mini/train.parquet", "image", 64)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    p = fitted("image", raw, size=224, channels=3, mean=mean, std=std)
    bicubic = T.InterpolationMode.BICUBIC
    steps = [T.Resize(224, bicubic), T.CenterCrop(224), T.ToTensor(), T.Normalize(mean, std)]
    chain = T.Compose(steps)

    def peer() -> torch.Tensor:
        return torch.stack([chain(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in raw])

    return Race("JPEG to 224 px", "Pillow, torchvision's transforms", len(raw), lambda: p(raw), peer)


def audio(folder: Path) -> Race:
    import soundfile
    from transformers import ASTFeatureExtractor

    raw = column("fsdd/train.parquet", "audio", 128)
    p = fitted("audio", raw, rate=8000, seconds=1.0, mel_bins=128)
    modality = load_modality("audio").Modality(16, **p.sizes())
    extractor = ASTFeatureExtractor(sampling_rate=8000, max_length=98, num_mel_bins=128)

    def peer() -> Any:
        waves = [soundfile.read(io.BytesIO(row["bytes"]), dtype="float32")[0][:8000] for row in raw]
        return extractor(waves, sampling_rate=8000, return_tensors="pt")

    def ours() -> Any:
        return modality.spectrum(p(raw))

    return Race("WAV to 128 log-mel bins", "soundfile, transformers' ASTFeatureExtractor", len(raw), ours, peer)


def video(folder: Path) -> Race:
    import av
    from torchvision.transforms.v2 import functional as F

    raw = [str(path) for path in sorted((DATA / "weizmann4" / "train").glob("*.mp4"))[:16]]
    p = fitted("video", raw, frames=16, fps=12.5, size=64, patch=8, channels=3)

    def peer() -> torch.Tensor:
        clips = []
        for path in raw:
            with av.open(path) as container:
                rate = float(container.streams.video[0].average_rate)
                wanted = {int(k / 12.5 * rate) for k in range(16)}
                frames = []
                for number, frame in enumerate(container.decode(video=0)):
                    if number in wanted:
                        frames.append(frame.to_ndarray(format="rgb24"))
                    if number >= max(wanted):
                        break
            clip = torch.from_numpy(np.stack((frames + frames[-1:] * 16)[:16])).permute(0, 3, 1, 2)
            clip = F.center_crop(F.resize(clip, [64], antialias=True), [64, 64]).float() / 255
            clips.append((clip - 0.45) / 0.225)
        return torch.stack(clips)

    return Race("MP4 to 16 frames of 64 px", "av's own loop, torchvision's resize", len(raw), lambda: p(raw), peer)


def text(folder: Path) -> Race:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    with open(DATA / "ag_news_mini" / "train.csv", newline="") as file:
        raw = [row["description"] for row in csv.DictReader(file)][:1000]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(raw, trainers.WordPieceTrainer(vocab_size=4000, special_tokens=special))
    stock = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    stock.save_pretrained(folder / "tokenizer")
    p = fitted("text", raw, tokenizer=str(folder / "tokenizer"), max_length=64)
    stock = AutoTokenizer.from_pretrained(folder / "tokenizer")

    def peer() -> Any:
        return stock(raw, padding=True, truncation=True, max_length=64, return_tensors="pt")

    return Race("1,000 texts to ids", "one call of the same Hugging Face tokenizer", len(raw), lambda: p(raw), peer)


def tabular(folder: Path) -> Race:
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder, QuantileTransformer

    with open(DATA / "adult" / "adult.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in ("income", "split")} for row in csv.DictReader(file)][:4096]
    numeric = ["age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week"]
    for row in rows:
        row |= {name: float(row[name]) for name in numeric}
    p = fitted("tabular", rows)
    scale = make_pipeline(SimpleImputer(), QuantileTransformer(n_quantiles=256, output_distribution="normal"))
    names = [name for name in rows[0] if name not in numeric]
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    stock = ColumnTransformer([("numbers", scale, numeric), ("categories", codes, names)]).fit(pd.DataFrame(rows))
    batches = [rows[i : i + 256] for i in range(0, len(rows), 256)]

    def ours() -> Any:
        return [p(batch) for batch in batches]

    def peer() -> Any:
        return [torch.as_tensor(stock.transform(pd.DataFrame(batch))).float() for batch in batches]

    return Race("rows of adult, batches of 256", "pandas, scikit-learn's ColumnTransformer", len(rows), ours, peer)


def eeg(folder: Path, again: bool = False) -> Race:
    """again: ours has read the files before, as in all epochs but the first; mne keeps nothing of them."""
    import mne

    from mmssl.modality.biosignals import mne_files

    channels = json.loads((DATA / "eegmmi_s001" / "channels.json").read_text())["channels"]
    signals = [np.asarray(s) for s in column("eegmmi_s001/eyes-train.parquet", "signal", 16)]
    paths = []
    for number, signal in enumerate(signals):
        info = mne.create_info(channels, 160.0, "eeg")
        paths.append(str(folder / f"{number}_raw.fif"))
        mne.io.RawArray(signal * 1e-6, info, verbose="ERROR").save(paths[-1], verbose="ERROR")
    p = fitted("eeg", paths, rate=160)

    def peer() -> Any:
        out = []
        for path in paths:
            x = mne.io.read_raw(path, preload=True, verbose="ERROR").get_data()
            x = x - x.mean(1, keepdims=True)
            out.append(torch.from_numpy(x / x.std()).float())
        return torch.stack(out)

    def ours() -> Any:
        if not again:
            mne_files._opened.cache_clear()
        return p(paths)

    what = f"FIF of 24 channels, 2 s, {'once more' if again else 'for the first time'}"
    return Race(what, "mne's read_raw, centred and scaled", len(paths), ours, peer)


def ecg(folder: Path) -> Race:
    import wfdb

    leads = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    paths = []
    for number, signal in enumerate(column("ptbxl_500/train.parquet", "signal", 64)):
        mv = np.asarray(signal, dtype=np.float64).T / 1000
        wfdb.wrsamp(
            f"r{number}", fs=100, units=["mV"] * 12, sig_name=leads, p_signal=mv, fmt=["16"] * 12, write_dir=str(folder)
        )
        paths.append(str(folder / f"r{number}"))
    p = fitted("ecg", paths, rate=100)

    def peer() -> Any:
        out = []
        for path in paths:
            x = wfdb.rdrecord(path).p_signal.T
            x = x - x.mean(1, keepdims=True)
            out.append(torch.from_numpy(x / x.std()).float())
        return torch.stack(out)

    return Race("WFDB of 12 leads, 10 s", "wfdb.rdrecord, centred and scaled", len(paths), lambda: p(paths), peer)


def graph(folder: Path) -> Race:
    from torch_geometric.data import Data
    from torch_geometric.transforms import AddLaplacianEigenvectorPE, AddRandomWalkPE, Compose

    import mmssl_graph

    raw = mmssl_graph.open_rows(str(DATA / "mutag" / "mutag.npz"), "train")["graph"][:128]
    p = fitted("graph", raw)
    config = p.config
    chain = Compose(
        [
            AddLaplacianEigenvectorPE(k=config.laplacian, attr_name="lap", is_undirected=True),
            AddRandomWalkPE(walk_length=config.walk, attr_name="walk"),
        ]
    )
    graphs = [p._graph(row) for row in raw]  # the edges, to build the same graphs as torch_geometric's Data
    data = []
    for made in graphs:
        links = torch.from_numpy(made.links())
        if made.nodes > config.laplacian:  # torch_geometric refuses smaller ones
            data.append(Data(edge_index=(links > 0).nonzero().T.contiguous(), num_nodes=made.nodes))
    raw = [row for row, made in zip(raw, graphs, strict=True) if made.nodes > config.laplacian]

    def peer() -> Any:
        return [chain(one.clone()) for one in data]

    return Race("mutag, spectral and walk encodings", "torch_geometric's transforms", len(raw), lambda: p(raw), peer)


RACES = {
    "image": image,
    "audio": audio,
    "video": video,
    "text": text,
    "tabular": tabular,
    "eeg": eeg,
    "eeg-again": functools.partial(eeg, again=True),
    "ecg": ecg,
    "graph": graph,
}


def run(race: Race, rounds: int) -> tuple[float, float]:
    """Samples a second of the processor, (ours, peer): medians of alternating rounds after one that warms up."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for number in range(rounds + 1):
        for name in ("ours", "peer") if number % 2 else ("peer", "ours"):
            start = time.process_time()
            getattr(race, name)()
            if number:
                seconds[name].append(time.process_time() - start)
    return race.samples / statistics.median(seconds["ours"]), race.samples / statistics.median(seconds["peer"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=list(RACES), default=list(RACES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| modality | work | peer | ours, samples/s of processor | peer | ratio |\n|---|---|---|---|---|---|")
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            race = RACES[name](Path(folder))
            ours, peer = run(race, args.rounds)
        print(f"| {name} | {race.what} | {race.peer_is} | {ours:,.0f} | {peer:,.0f} | {ours / peer:.2f} |", flush=True)


if __name__ == "__main__":
    main()
