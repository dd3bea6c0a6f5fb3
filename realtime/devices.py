"""The list of `--list-devices`: what there is to be named with `--camera` and `--mic`.

It knows nothing about a run. Data leaves it as lines of text.
"""

from engine.errors import SourceError


def device_lines() -> list[str]:
    """Cameras and microphones by number and name, and what stands in for them."""
    from realtime.sources.camera import list_cameras
    from realtime.sources.microphone import list_microphones

    cameras = [f"  --camera {camera.index}    {camera.name}" for camera in list_cameras()]
    try:
        microphones = [
            f"  --mic {microphone.index}    {microphone.name}{' (default)' if microphone.default else ''}"
            for microphone in list_microphones()
        ]
    except SourceError as error:
        microphones = [f"  {error}"]
    return [
        "Cameras:",
        *(cameras or ["  none; --camera demo needs none"]),
        "Microphones:",
        *(microphones or ["  none; --mic none goes without"]),
    ]
