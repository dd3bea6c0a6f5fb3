"""Flags, the TOML file and what they mean: which sources, in which workers."""

from pathlib import Path

import pytest

from realtime.config import Config, Exit, UsageError, read_command
from realtime.parts import Kind, kind_of, parts


def _toml(tmp_path: Path, text: str) -> str:
    file = tmp_path / "run.toml"
    file.write_text(text)
    return str(file)


def test_nothing_given_is_the_default() -> None:
    assert read_command([]).config == Config()


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = _toml(
        tmp_path,
        'faces = 3\ncamera = 1\nmax-wait = 50\nrate = 2.5\noffline = true\nno_pace = false\nout = "o.csv"',
    )
    config = read_command(["--config", file, "--rate", "10"]).config
    assert config == Config(camera="1", faces=3, max_wait=50.0, rate=10.0, offline=True, out=Path("o.csv"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("camra = 0", "'camra'; did you mean 'camera'?"),
        ("max_wiat = 0", "did you mean 'max-wait'?"),
        ("rate = 'fast'", "rate must be a number"),
        ("rate = true", "rate must be a number"),
        ("offline = 1", "offline must be true or false"),
        ("faces = 2.5", "faces must be a whole number"),
        ("bind = 5560", "bind must be a string"),
        ("rate = ", "is not TOML"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_command(["--config", _toml(tmp_path, text)])
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml cannot be read"):
        read_command(["--config", str(tmp_path / "none.toml")])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rate", "0"], "--rate"),
        (["--rate", "nan"], "--rate"),
        (["--rate", "inf"], "--rate"),
        (["--max-wait", "-1"], "--max-wait"),
        (["--duration", "0"], "--duration"),
        (["--duration", "inf"], "--duration"),
        (["--out", "o.txt"], r"\.jsonl or \.csv"),
        (["--stream", "a/b"], "--stream"),
        (["--secret", "feed.key_secret"], "--listeners"),
        (["--listeners", "friends"], "--secret"),
        (["--faces", "0"], "--faces"),
        (["--faces", "17"], "--faces"),
        (["--camera", "none", "--mic", "none"], "nothing to look at"),
        (["--no-pace"], "--no-pace takes media files"),
        (["--no-pace", "--camera", "0"], "0 is not a file"),
        (["--no-pace", "--camera", "rtsp://me:secret@camera/1"], "--camera rtsp://camera/1 is not a file"),
        (["--no-pace", "--camera", "demo", "--mic", "default"], "default is not a file"),
    ],
)
def test_what_makes_no_sense_is_refused(flags: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_command(flags)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--camera", "0", "--camera", "1"], "more than one without a name"),
        (["--camera", "a=0", "--camera", "a=1"], "the name a twice"),
        (["--camera", "a=0", "--mic", "b=1"], "no camera of that name"),
        (["--camera", "a=0", "--mic", "a=1", "--mic", "0"], "the stream a has one"),
        (["--camera", "a=0", "--mic", "a=1", "--mic", "http://me:secret@b/c"], "--mic http://b/c and"),
        (["--camera", "a=0", "--camera", "b=1", "--stream", "door"], "--stream names the one"),
        (["--camera", "a=0", "--camera", "b=none"], "nothing to look at"),
        (["--camera", "a=0", "--camera", "b=none", "--mic", "a=1"], "nothing to look at"),
        (["--camera", "a=demo", "--camera", "b=0", "--no-pace"], "0 is not a file"),
    ],
)
def test_streams_that_do_not_fit_together_are_refused(flags: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_command(flags)


def _streams(*flags: str) -> list[tuple[str, str | None, str | None]]:
    return [(s.name, s.camera, s.mic) for s in read_command(flags).config.streams]


def test_cameras_and_microphones_find_each_other_by_name(tmp_path: Path) -> None:
    assert _streams("--camera", "0") == [("main", "0", None)]
    assert _streams("--camera", "0", "--mic", "main=1", "--stream", "main") == [("main", "0", "1")]
    assert _streams("--camera", "door=0", "--mic") == [("door", "0", "default")]
    url = f"rtsp://host/live?user=a&token={'b' * 300}"
    two = ["--camera", f"lobby={url}", "--camera", "desk=0"]
    assert _streams(*two) == [("lobby", url, None), ("desk", "0", None)]
    assert _streams(*two, "--mic", "desk=default") == [("lobby", url, None), ("desk", "0", "default")]
    assert _streams(*two, "--mic", "2", "--mic", "desk=3") == [("lobby", url, "2"), ("desk", "0", "3")]
    assert _streams(*two, "--mic", "none") == [("lobby", url, "none"), ("desk", "0", "none")]
    assert _streams("--camera", url) == [("main", url, None)], "the = of a URL makes no name"
    file = _toml(tmp_path, 'camera = ["lobby=0", "desk=1"]\nmic = "desk=default"')
    assert _streams("--config", file) == [("lobby", "0", None), ("desk", "1", "default")]


def test_a_file_with_an_equals_sign_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "take=1.mp4").touch()
    assert _streams("--camera", "take=1.mp4") == [("main", "take=1.mp4", None)]
    assert _streams("--camera", "a=take=1.mp4") == [("a", "take=1.mp4", None)]


def test_each_of_several_streams_has_workers_and_a_file_of_its_own(film: str) -> None:
    config = Config(camera=("a=0", f"b={film}", "c=1"), mic="c=default", out=Path("runs/o.jsonl"))
    assert [(part.worker, part.stream, part.asked) for part in parts(config)] == [
        ("a/camera", "a", True),
        ("b/media", "b", True),
        ("c/camera", "c", True),
        ("c/microphone", "c", True),
    ]
    heard = [part.stream for part in parts(config) if part.wants("audio")]
    assert heard == ["b", "c"], "of several cameras one without a microphone is silent"
    assert [part.may_return for part in parts(config)] == [True, False, True, True]
    assert config.out_of("b") == Path("runs/o.b.jsonl")
    assert Config(out=Path("o.csv")).out_of("main") == Path("o.csv")


@pytest.mark.parametrize("flags", [["--rte", "5"], ["--engine", "abacus"], ["--rate", "fast"], ["stray"]])
def test_wrong_flags_are_told_in_one_line(flags: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        read_command(flags)
    said = str(raised.value)
    assert "\n" not in said
    assert flags[0].removeprefix("--") in said
    assert said.endswith("; --help shows the flags.")


def test_every_status_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_command(["--help"])
    shown = capsys.readouterr().out
    assert all(f"{status.value} " in shown for status in Exit)


def test_rates_are_exact() -> None:
    assert (Config(rate=0.1).rate_hz * 10).denominator == 1


def _sketch(**given: object) -> list[tuple[str, bool, list[tuple[Kind, str | None, bool, bool]]]]:
    """Worker, asked, and (kind, spec, video, audio) of its sources."""
    return [
        (part.worker, part.asked, [(s.kind, s.spec, s.video, s.audio) for s in part.sources])
        for part in parts(Config(**given))  # type: ignore[arg-type]
    ]


@pytest.fixture
def film(tmp_path: Path) -> str:
    path = tmp_path / "film.mp4"
    path.touch()
    return str(path)


def test_without_flags_the_first_camera_or_the_demo_and_the_default_microphone() -> None:
    assert _sketch() == [
        ("camera", False, [(Kind.CAMERA, None, True, False)]),
        ("microphone", False, [(Kind.MICROPHONE, None, False, True)]),
    ]
    camera, microphone = parts(Config())
    assert camera.fallback is not None
    assert (camera.fallback.kind, camera.fallback.audio) == (Kind.DEMO, True)
    assert microphone.fallback is None


def test_the_demo_that_stands_in_keeps_quiet_beside_a_microphone_that_was_asked_for() -> None:
    for mic in ("default", "0"):
        camera, microphone = parts(Config(mic=mic))
        assert camera.fallback is not None
        assert not camera.fallback.audio
        assert microphone.asked


def test_a_named_camera_has_no_fallback() -> None:
    camera, microphone = parts(Config(camera="0"))
    assert (camera.asked, camera.fallback, microphone.asked) == (True, None, False)


@pytest.mark.parametrize("spec", ["demo", "rtsp://host/stream", "FILM"])
def test_the_sound_of_what_has_its_own(film: str, spec: str) -> None:
    spec = film if spec == "FILM" else spec
    kind = Kind.DEMO if spec == "demo" else Kind.MEDIA
    name = kind.value
    assert _sketch(camera=spec) == [(name, True, [(kind, spec, True, True)])]
    assert _sketch(camera=spec, mic="none") == [(name, True, [(kind, spec, True, False)])]
    assert _sketch(camera=spec, mic="default") == [
        (name, True, [(kind, spec, True, False)]),
        ("microphone", True, [(Kind.MICROPHONE, None, False, True)]),
    ]


def test_sound_alone(film: str) -> None:
    assert _sketch(camera="none", mic=film) == [("media", True, [(Kind.MEDIA, film, False, True)])]
    assert _sketch(camera="none") == [("microphone", True, [(Kind.MICROPHONE, None, False, True)])]


@pytest.mark.parametrize("spec", ["demo", "FILM"])
def test_sound_without_pacing_is_alone_where_no_picture_is_named(film: str, spec: str) -> None:
    spec = film if spec == "FILM" else spec
    assert _sketch(mic=spec, pace=False) == _sketch(camera="none", mic=spec)
    assert parts(Config(mic=spec, pace=False))[0].fallback is None


def test_two_files_have_two_workers_by_the_clock_and_one_without(film: str) -> None:
    picture, sound = (Kind.MEDIA, film, True, False), (Kind.MEDIA, film, False, True)
    assert _sketch(camera=film, mic=film) == [("media", True, [picture]), ("sound", True, [sound])]
    assert _sketch(camera=film, mic=film, pace=False) == [("media", True, [picture, sound])]


def test_what_a_word_names(film: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "3").touch()
    assert kind_of("3", Kind.CAMERA) is Kind.CAMERA, "a number is a number even where a file has that name"
    assert kind_of(film, Kind.CAMERA) is Kind.MEDIA
    assert kind_of("film.mp4", Kind.MICROPHONE) is Kind.MEDIA
    assert kind_of("http://x/y", Kind.CAMERA) is Kind.MEDIA
    assert kind_of("/dev/null", Kind.CAMERA) is Kind.CAMERA, "a device node is a device"
    assert kind_of("HD Webcam", Kind.CAMERA) is Kind.CAMERA
