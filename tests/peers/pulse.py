"""A sound system of the test's own: a private PulseAudio whose only microphone hears what the test plays.

    with PulseServer() as sound:
        subprocess.run([...], env=sound.env)      # sees one microphone, `pulse`, the default
        sound.play(samples, rate_hz)              # speaks into it, in real time

Debian: pulseaudio pulseaudio-utils libasound2-plugins libportaudio2. Needs no D-Bus and no sound card.
"""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

ALSA = """</usr/share/alsa/alsa.conf>
pcm.!default { type pulse hint { show on description "pulse default" } }
ctl.!default { type pulse }
"""


def missing() -> str | None:
    """Why there can be no private PulseAudio here; None where there can."""
    for program in ("pulseaudio", "pactl", "paplay", "parec"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: pulseaudio pulseaudio-utils)"
    if not list(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so")):
        return "ALSA does not reach PulseAudio (Debian: libasound2-plugins)"
    return None


class PulseServer:
    """Its null sink is the loudspeaker, the sink's monitor is the microphone."""

    def __init__(self, *, rate_hz: int = 48_000) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="de3-pulse-"))  # short: socket paths end at 107 characters
        alsa = self._home / "alsa.conf"
        alsa.write_text(ALSA)
        self._rate_hz = rate_hz
        self.env = {
            **os.environ,
            "HOME": str(self._home),
            "XDG_RUNTIME_DIR": str(self._home),
            "PULSE_SERVER": f"unix:{self._home}/sock",
            "PULSE_SOURCE": "fake.monitor",
            "PULSE_SINK": "fake",
            "PULSE_LATENCY_MSEC": "20",
            "ALSA_CONFIG_PATH": str(alsa),
        }

    def __enter__(self) -> "PulseServer":
        socket = self._home / "sock"
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
        command += ["-L", f"module-native-protocol-unix auth-anonymous=1 socket={socket}"]
        command += ["-L", f"module-null-sink sink_name=fake rate={self._rate_hz} channels=1 format=s16le"]
        self._server = subprocess.Popen(command, env=self.env, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while subprocess.run(["pactl", "info"], env=self.env, capture_output=True).returncode:
            if time.monotonic() > deadline or self._server.poll() is not None:
                self.__exit__()
                raise RuntimeError("the private PulseAudio did not start")
            time.sleep(0.1)
        self._warm_up()
        return self

    def _warm_up(self) -> None:
        """The first stream in each direction loses about a second."""
        speaking = self.play(np.zeros(2 * self._rate_hz, np.float32), self._rate_hz)
        command = ["parec", "--raw", "--format=s16le", "--channels=1", f"--rate={self._rate_hz}"]
        with subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE) as listening:
            assert listening.stdout is not None
            listening.stdout.read(2 * self._rate_hz)
            listening.terminate()
        speaking.wait()

    def play(self, samples: np.ndarray, rate_hz: int) -> "subprocess.Popen[bytes]":
        """Speaks (N,) float32 into the microphone; the process ends when all is said."""
        command = ["paplay", "--raw", "--format=float32le", "--channels=1", f"--rate={rate_hz}"]
        raw = self._home / f"{time.monotonic_ns()}.raw"
        raw.write_bytes(samples.astype("<f4").tobytes())
        return subprocess.Popen([*command, str(raw)], env=self.env)

    def __exit__(self, *args: object) -> None:
        self._server.terminate()
        self._server.wait(10)
        shutil.rmtree(self._home, ignore_errors=True)
