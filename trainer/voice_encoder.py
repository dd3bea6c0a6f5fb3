"""`python -m trainer.voice_encoder --whisper FILE --voices DIR --out FILE`: the network that hears voices.

The first layers of Whisper (Radford et al. 2022), which were trained on speech of many people and languages,
tell emotion across speakers and languages far better than what can be learned from a few dozen actors.
Taken are its two convolutions and its first transformer layer, the latter at half the rate (25 Hz), on the
engine's own log-mel, from which Whisper's is made by a map that is fitted on voices. What comes out is
brought to mean 0 and deviation 1. Nothing of it learns afterwards. Data leaves as one ONNX graph, for
`engine.signals.voice`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.signals.sound import MelParams, filterbank
from engine.signals.voice import AHEAD, CHUNK, PIECE, STEP, chunks, pieces
from trainer.data.sound import Voices, open_cache
from trainer.graph_files import ROUNDED_FROM, write_graph
from trainer.prepare_voices import Mels, open_mels

WIDTH, HEADS, BANDS = 384, 6, 80
"""Of Whisper tiny."""
N_FFT, RATE_HZ, HOP = 400, 16_000, 160
PREFIX = "model.encoder."
NEAREST = 3
"""So many of the engine's bands make one of Whisper's."""
DECADES = 8
"""Whisper hears nothing that is so much below the loudest."""
FITTED_TAKES, HEARD_TAKES = 200, 500

GIVEN = slice((PIECE - CHUNK - AHEAD) // STEP, (PIECE - AHEAD) // STEP)
"""Tokens of a piece that are given."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class WhisperStart(nn.Module):
    """Shapes: N pieces, C bins of a piece, F of the engine's bands, S tokens of the piece, T those given."""

    def __init__(self, weights: dict[str, Tensor], bands: int) -> None:
        super().__init__()
        self.to_whisper = nn.Linear(bands, BANDS)
        self.register_buffer("floor", torch.zeros(()))
        self.first = nn.Conv1d(BANDS, WIDTH, 3, padding=1)
        self.second = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.attention_norm, self.forward_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.key, self.value = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("deviation", torch.ones(WIDTH))
        names = {
            "first": "conv1", "second": "conv2", "attention_norm": "layers.0.self_attn_layer_norm",
            "forward_norm": "layers.0.final_layer_norm", "query": "layers.0.self_attn.q_proj",
            "key": "layers.0.self_attn.k_proj", "value": "layers.0.self_attn.v_proj",
            "out": "layers.0.self_attn.out_proj", "up": "layers.0.fc1", "down": "layers.0.fc2",
        }  # fmt: skip
        for own, theirs in names.items():
            state = {k: weights[f"{PREFIX}{theirs}.{k}"].float() for k in getattr(self, own).state_dict()}
            getattr(self, own).load_state_dict(state)
        places = weights[PREFIX + "embed_positions.weight"][: PIECE // 2 : 2].float()
        self.register_buffer("places", places)

    def forward(self, mel_NCF: Tensor) -> Tensor:
        """(N, C, F) natural log of power below the loudest to (N, T, WIDTH)."""
        return (self.features(mel_NCF) - self.mean) / self.deviation

    def features(self, mel_NCF: Tensor) -> Tensor:
        """(N, T, WIDTH): what the layer says of the chunk, having heard all."""
        x = (torch.maximum(self.to_whisper(mel_NCF), self.floor) + 4) / 4
        x = F.gelu(self.second(F.gelu(self.first(x.transpose(1, 2)))))
        x_NSW = F.avg_pool1d(x, 2).transpose(1, 2) + self.places
        y = self.attention_norm(x_NSW)
        asked = y[:, GIVEN]
        q, k, v = (self._split(each) for each in (self.query(asked), self.key(y), self.value(y)))
        weights = torch.softmax(q @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5, -1)
        x_NTW = x_NSW[:, GIVEN] + self.out((weights @ v).transpose(1, 2).flatten(2))
        return x_NTW + self.down(F.gelu(self.up(self.forward_norm(x_NTW))))

    def _split(self, x_NSW: Tensor) -> Tensor:
        return x_NSW.view(x_NSW.shape[0], x_NSW.shape[1], HEADS, WIDTH // HEADS).transpose(1, 2)


def whisper_bank() -> Float64:
    """(80, 201): Whisper's triangles, evenly spaced on Slaney's scale, each of the same area."""

    def hz(mel: Float64) -> Float64:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))

    top = 15 + 27 * np.log(RATE_HZ / 2 / 1000) / np.log(6.4)
    edges = hz(np.linspace(0, top, BANDS + 2))
    bins = np.arange(N_FFT // 2 + 1) * (RATE_HZ / N_FFT)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(rise, fall), 0, None) * (2 / (edges[2:] - edges[:-2]))[:, None]


def fit_bands(network: WhisperStart, voices: Voices, mels: Mels, rng: np.random.Generator) -> None:
    """Fit, band by band, Whisper's log-mel from the nearest of the engine's.

    A voice counts as loud as one of the usual level, at which its active parts have a power of 0.05 squared.
    """
    taper = torch.hann_window(N_FFT)
    bank = torch.from_numpy(whisper_bank()).float()
    ours, theirs, usual = [], [], []
    for take in rng.choice(len(voices), FITTED_TAKES, replace=False):
        wave, mel = voices.take(int(take)), mels.take(0, int(take))
        loudest = mel.mean(1).max()
        active = np.sqrt(np.mean(wave[np.abs(wave) > np.abs(wave).max() / 30] ** 2))
        spectrum = torch.stft(
            torch.from_numpy(wave), N_FFT, HOP, window=taper, center=False, return_complex=True
        )
        power = bank @ spectrum.abs().square()
        count = min(len(mel), power.shape[1])
        ours.append(mel[:count] - loudest)
        theirs.append(torch.log(power + 1e-10).numpy().T[:count] - loudest)
        usual.append(loudest + 2 * np.log(0.05 / active))
    x, y, level = np.concatenate(ours), np.concatenate(theirs) + np.median(usual), np.log(10)
    mine, whispers = filterbank(MelParams()), whisper_bank()
    centres, wanted = (_centres(each) for each in (mine, whispers))
    weight, bias = np.zeros((BANDS, x.shape[1])), np.zeros(BANDS)
    for band in range(BANDS):
        near = np.argsort(np.abs(centres - wanted[band]))[:NEAREST]
        given = np.hstack((x[:, near], np.ones((len(x), 1))))
        found = np.linalg.lstsq(given, y[:, band], rcond=None)[0]
        weight[band, near], bias[band] = found[:-1], found[-1]
    with torch.no_grad():
        network.to_whisper.weight.copy_(torch.from_numpy(weight / level))
        network.to_whisper.bias.copy_(torch.from_numpy(bias / level))
        loud = network.to_whisper(torch.from_numpy(x).float()).amax(1)
        network.floor.copy_(torch.quantile(loud[::10], 0.99) - DECADES)


def _centres(bank: Float64) -> Float64:
    hz = np.arange(bank.shape[1]) * (RATE_HZ / 2 / (bank.shape[1] - 1))
    return (bank * hz).sum(1) / bank.sum(1)


@torch.inference_mode()
def fit_scale(network: WhisperStart, mels: Mels, takes: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Bring what the network says of these takes to mean 0 and deviation 1."""
    rows = []
    for take in rng.choice(takes, min(HEARD_TAKES, len(takes)), replace=False):
        session = int(rng.integers(len(mels.starts)))
        mel, mask = chunks(mels.take(session, int(take)))
        rows.append(network.features(torch.from_numpy(pieces(mel, mask))).flatten(0, 1))
    deviation, mean = torch.std_mean(torch.cat(rows), 0)
    network.mean.copy_(mean)
    network.deviation.copy_(deviation)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.voice_encoder", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--whisper", type=Path, required=True, help="model.safetensors of Whisper tiny")
    parser.add_argument("--voices", type=Path, required=True, help="what trainer.prepare_voices wrote")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file")
    chosen = parser.parse_args()
    voices, mels = open_cache(chosen.voices), open_mels(chosen.voices)
    rng = np.random.default_rng(405)
    network = WhisperStart(load_file(chosen.whisper), MelParams().bands).eval()
    fit_bands(network, voices, mels, rng)
    fit_scale(network, mels, np.flatnonzero(voices.splits == "train"), rng)
    export(network, chosen.out)


def export(network: WhisperStart, out: Path) -> None:
    """Write the graph."""
    sound = torch.zeros(2, PIECE, MelParams().bands)
    write_graph(network, (sound,), out, ("mel",), ("tokens",), ROUNDED_FROM)


if __name__ == "__main__":
    main()
