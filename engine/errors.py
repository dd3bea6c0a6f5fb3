"""The errors that cross module borders, each a sentence that a user can act on.

De3Error
├── BundleError    a bundle is missing, damaged or of another schema
├── BackendError   an inference engine is not installed or does not run this bundle
├── FinderError    a face model was named that cannot be used
└── SourceError    a camera, microphone, file or stream cannot be opened or read
    └── AbsentError    what was named does not exist; the sentence lists what there is
"""

import difflib
from collections.abc import Collection


class De3Error(Exception):
    """Base of all errors that de3-live raises on purpose."""


class BundleError(De3Error):
    """A bundle is missing, damaged or of another schema."""


class BackendError(De3Error):
    """An inference engine is not installed, or does not run this bundle."""


class FinderError(De3Error):
    """A face model was named that cannot be used."""


class SourceError(De3Error):
    """A camera, microphone, file or stream cannot be opened or read."""


class AbsentError(SourceError):
    """A camera, microphone or file that was named does not exist; the sentence lists what there is."""


def unknown_key(key: str, known: Collection[str]) -> str:
    """That there is no such key, with the known one that is written most like it."""
    (near,) = difflib.get_close_matches(key, known, n=1, cutoff=0)
    return f"unknown key {key!r}; did you mean {near!r}?"
