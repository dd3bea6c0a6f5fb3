"""What a capture worker opens. What it does with that is seen from the whole program, in tests/faults."""

from realtime.capture import CaptureJob, _what_exists
from realtime.link import Endpoints
from realtime.parts import Kind, SourceSpec

CAMERA = SourceSpec(kind=Kind.CAMERA, spec=None, video=True, audio=False)
DEMO = SourceSpec(kind=Kind.DEMO, spec=None, video=True, audio=False)
SOUND = SourceSpec(kind=Kind.MEDIA, spec="talk.wav", video=False, audio=True)


def test_what_stands_in_for_a_camera_leaves_the_other_sources_alone() -> None:
    job = CaptureJob(
        worker="media",
        stream="main",
        endpoints=Endpoints("", ""),
        sources=(CAMERA, SOUND),
        fallback=DEMO,
        paced=True,
        duration_ns=None,
        bundle=None,
        faces=1,
        face_model=None,
        offline=True,
    )
    picture, *others = _what_exists(job)[0]
    assert picture.video
    assert others == [SOUND]
