"""Eager PyTorch behind the protocol of the engines: with the tokens kept, and with every window computed
anew.

The network is rebuilt from the bundle's manifest and weights. On a GPU the flow is computed there too, by our
kernels, so that what is compared is the way of computing and not where. It knows nothing of measuring. Data
leaves it as `engine.backends.base` says.
"""

import json
import struct
from collections import deque
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from engine.backends.base import Answers, Arrays, HostBackend, as_answers
from engine.backends.device_flow import find_flow
from engine.bundle import MANIFEST, Bundle
from engine.signals.sound import LogMel
from engine.signals.voice import chunks, open_voice_encoder
from engine.types import Face, Float32
from engine.window import Window

GPU_BATCH = 512
DTYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "BOOL": np.bool_}


class AbsentEngineError(Exception):
    """An engine is not installed, or cannot run this bundle; the text says so."""


class TorchBackend(HostBackend):
    """The PyTorch network, eager, on one thread of the CPU or on the GPU (`device` "cuda").

    Weights come from the bundle's `model.safetensors` (matrices at half precision), shapes from the manifest.
    Raises AbsentEngineError where torch is not installed or the weights do not fit.
    """

    name = "torch"

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        super().__init__(bundle)
        try:
            import torch
        except ImportError as error:
            raise AbsentEngineError("torch is not installed, so eager torch is left out.") from error
        torch.set_num_threads(1)
        self._torch, self._device = torch, torch.device(device)
        self._network = load_network(bundle).to(self._device)
        self.flow = "flow on the host with OpenCV"
        self._device_flow: Any = None
        if device != "cpu":
            self._stream = torch.cuda.Stream()
            self._device_flow, self.flow = find_flow(bundle.flow, bundle.crop.size, GPU_BATCH)

    def encode(self, crop: Float32, flow: Float32) -> tuple[Float32, Float32]:
        """See `GraphBackend`."""
        torch = self._torch
        with torch.inference_mode():
            given = (torch.from_numpy(each).to(self._device) for each in (crop, flow))
            v, o, _ = self._network.frame_encoder(*given)
        return v.cpu().numpy(), o.cpu().numpy()

    def answers(self, inputs: Arrays) -> Answers:
        """See `GraphBackend`."""
        torch = self._torch
        with torch.inference_mode():
            given = {
                name: torch.from_numpy(np.ascontiguousarray(value)).to(self._device)
                for name, value in inputs.items()
            }
            given["sound"] = given.pop(self._bundle.sound)
            logits, _, _, *attributes = self._network.window_model(**given)
        return as_answers([logits.cpu().numpy(), *(each.cpu().numpy() for each in attributes)])

    def observe(self, slots: Sequence[int], ticks: Sequence[int], faces: Sequence[Face]) -> None:
        """See `Backend`."""
        if self._device_flow is None:
            super().observe(slots, ticks, faces)
            return
        ring = self._bundle.window.ring_ticks
        for first in range(0, len(faces), GPU_BATCH):
            span = slice(first, first + GPU_BATCH)
            rows = zip(slots[span], ticks[span], *self._on_the_gpu(faces[span]), strict=True)
            for slot, tick, v, o in rows:
                kept = self._slot(slot)
                kept.v[tick % ring], kept.o[tick % ring] = v, o

    def _on_the_gpu(self, faces: Sequence[Face]) -> tuple[Float32, Float32]:
        torch, size = self._torch, self._bundle.flow.size
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            pictures = {
                name: torch.from_numpy(np.stack([getattr(face, name) for face in faces])).to(self._device)
                for name in ("previous", "crop")
            }
            gap_ns = torch.tensor([face.gap_ns for face in faces], device=self._device)
            flow = torch.empty((len(faces), 2, size, size), device=self._device)
            handle = self._stream.cuda_stream
            self._device_flow(len(faces), handle, **pictures, gap_ns=gap_ns, flow=flow)
            v, o, _ = self._network.frame_encoder(pictures["crop"][:, None].float(), flow)
            return v.cpu().numpy(), o.cpu().numpy()


class AnewBackend(TorchBackend):
    """The same, keeping crops where the others keep tokens: at every score the whole window is computed anew.

    That is flow and frame encoder for each of the window's ticks, mel and voice tokens of all its sound, the
    window model.
    A stream that has not run for a whole window yet is filled up with what it has, and the sound that is
    computed anew is noise of a window's length: neither changes what it costs.
    """

    name = "anew"

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        super().__init__(bundle, device)
        self._seen: dict[int, deque[tuple[int, Face]]] = {}
        samples = (bundle.window.bins - 1) * bundle.mel.hop + bundle.mel.window
        self._sound = np.random.default_rng(0).uniform(-0.1, 0.1, samples).astype(np.float32)

    def observe(self, slots: Sequence[int], ticks: Sequence[int], faces: Sequence[Face]) -> None:
        """See `Backend`; nothing is computed yet."""
        for slot, tick, face in zip(slots, ticks, faces, strict=True):
            self._seen.setdefault(slot, deque(maxlen=self._bundle.window.ticks)).append((tick, face))

    def score(self, slots: Sequence[int], windows: Sequence[Window]) -> Answers:
        """See `Backend`."""
        rows: list[tuple[int, int, Face]] = []
        for slot in slots:
            whole = islice(cycle(self._seen.get(slot, ())), self._bundle.window.ticks)
            rows += [(slot, tick, face) for tick, face in whole]
            window_sound(self._bundle, LogMel(self._bundle.mel).push(0, self._sound)[1])
        if rows:
            super().observe(*zip(*rows, strict=True))
        return super().score(slots, windows)


def window_sound(bundle: Bundle, mel: Float32) -> dict[str, Float32]:
    """What a window of this log-mel, (M, F), holds of its sound, by the names of `engine.window.Window`."""
    held = {"mel": mel}
    if bundle.voice is not None:
        encoder = open_voice_encoder(bundle.voice.encoder, bundle.digest)
        tokens = encoder.encode(*chunks(mel))
        held["voice_tokens"] = tokens.reshape(-1, encoder.width)
    return held


def load_network(bundle: Bundle) -> Any:
    """The PyTorch network of a bundle, for windows of the bundle's length.

    Raises AbsentEngineError where the bundle was exported from another version of the network, or without
    its weights.
    """
    from trainer.model.de3 import DE3

    manifest = json.loads((bundle.path / MANIFEST).read_text())
    lengths = {"ticks": bundle.window.ticks, "mel_bins": bundle.window.bins}
    try:
        config = manifest["network"]
        network = DE3({**config, "window_model": {**config["window_model"], **lengths}})
        network.load_state_dict(_tensors(bundle.path / "model.safetensors"))
    except (KeyError, TypeError, FileNotFoundError, RuntimeError) as error:
        raise AbsentEngineError(
            f"{bundle.path} does not hold the weights of the trainer's present network: torch is left out."
        ) from error
    return network.eval()


def _tensors(file: Path) -> dict[str, Any]:
    """What a safetensors file holds. Read by hand, as a bare machine has no package for it."""
    import torch

    data = file.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            values = np.frombuffer(body[first:last], DTYPES[entry["dtype"]]).reshape(entry["shape"])
            found[name] = torch.from_numpy(values.copy())
    return found
