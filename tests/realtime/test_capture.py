"""What a capture worker opens. What it does with that is seen from the whole program, in tests/faults."""

from realtime.capture import CaptureJob, _name, _what_exists
from realtime.link import Endpoints
from realtime.parts import Kind, SourceSpec
from realtime.sources.base import SourceInfo

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


def test_picture_and_sound_are_named_after_the_source_that_brings_them() -> None:
    infos = [
        SourceInfo(name="talk.mp4", has_video=True, has_audio=False, live=False, epoch_ns=0),
        SourceInfo(name="talk.wav", has_video=False, has_audio=True, live=False, epoch_ns=0),
    ]
    assert (_name(infos, "video"), _name(infos, "audio")) == ("talk.mp4", "talk.wav")
    assert _name(infos[:1], "audio") == ""
