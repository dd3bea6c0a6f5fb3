"""Where this user's programs keep what can be made or fetched again."""

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Where this user's programs keep what can be fetched again."""
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "de3-live"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "de3-live" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "de3-live"
    return Path.home() / ".cache" / "de3-live"
