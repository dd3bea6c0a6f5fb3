"""Emotion scores from face, voice and facial motion: the library.

    from engine import Recognizer

Importing this costs next to nothing; a name loads its module when it is first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.bundle import Bundle, load_bundle
    from engine.errors import BackendError, BundleError, De3Error, FinderError, SourceError
    from engine.recognizer import Recognizer
    from engine.streams import Recognition, Stream, open_recognition
    from engine.types import Block, Face, Frame, Observation, Scores

# ONNX Runtime, 1.32 at least, keeps a number for the machine and tells its makers how it is used, unless this
# is set before it is imported. Nothing here tells anybody; whoever wants it may set 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "engine.bundle": ("Bundle", "load_bundle"),
    "engine.errors": ("BackendError", "BundleError", "De3Error", "FinderError", "SourceError"),
    "engine.recognizer": ("Recognizer",),
    "engine.streams": ("Recognition", "Stream", "open_recognition"),
    "engine.types": ("Block", "Face", "Frame", "Observation", "Scores"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BackendError",
    "Block",
    "Bundle",
    "BundleError",
    "De3Error",
    "Face",
    "FinderError",
    "Frame",
    "Observation",
    "Recognition",
    "Recognizer",
    "Scores",
    "SourceError",
    "Stream",
    "load_bundle",
    "open_recognition",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
