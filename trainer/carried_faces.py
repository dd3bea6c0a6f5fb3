"""The face finder's two graphs in a bundle: named in its manifest, and taken over from one into another.

Knows nothing of networks or training. Only the graphs' files and the manifest's `faces` and `files` are
written.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

FILES = {"finder": "face_finder.onnx", "aligner": "face_aligner.onnx"}


def enter(bundle: Path, about: dict[str, Any]) -> None:
    """Name the graphs that lie in a bundle in its manifest, with their digests.

    Raises ValueError where the folder has no manifest.
    """
    file = bundle / "manifest.json"
    if not file.is_file():
        raise ValueError(f"{bundle} is no bundle: it has no manifest.json.")
    manifest = json.loads(file.read_text())
    manifest["faces"] = {**FILES, **about}
    for name in FILES.values():
        manifest["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    part = file.with_suffix(".part")
    part.write_text(json.dumps(manifest, indent=1) + "\n")
    part.replace(file)


def faces_of(source: Path) -> dict[str, Any] | None:
    """What the manifest of a bundle says of its face finder, None where it has none."""
    file = source / "manifest.json"
    faces: dict[str, Any] | None = json.loads(file.read_text()).get("faces") if file.is_file() else None
    return faces


def carry(source: Path, bundle: Path, faces: dict[str, Any] | None = None) -> bool:
    """Take the face finder of one bundle over into another; whether there is one to take.

    faces: what `source` said of it (`faces_of`) before it was written over, where both are the same.

    Raises ValueError where `bundle` has no manifest.
    """
    faces = faces or faces_of(source)
    if faces is None:
        return False
    for key, name in FILES.items():
        if source.resolve() != bundle.resolve():
            shutil.copyfile(source / faces[key], bundle / name)
    enter(bundle, {key: value for key, value in faces.items() if key not in FILES})
    return True
