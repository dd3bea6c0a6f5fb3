"""Where this user's fetched and measured things are kept; nothing of what anybody showed or said.

Knows nothing of what is kept. Data leaves it as a path.
"""

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """The folder for de3-live in the user's cache; it may not exist yet. `XDG_CACHE_HOME` is honoured."""
    if os.environ.get("XDG_CACHE_HOME"):
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        base = Path(os.environ["LOCALAPPDATA"])
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path.home() / ".cache"
    return base / "de3-live"
