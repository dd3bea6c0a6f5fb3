"""`python -m trainer.ablate --config FILE --seeds 3`: what each part of the model and of its data is worth.

Trains the whole model and variants that lack one thing each (see `VARIANTS`), with the same seeds, voices
first, then windows; exports each and plays the test clips through it. A run that is done is not done again;
a broken one goes on. Writes a table with intervals as Markdown and JSON. It only joins the parts: the
switches are options of `trainer.model.window_model` and `trainer.stage_windows`.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from rich.console import Console

from engine.errors import De3Error
from trainer.ablation_table import WHOLE, markdown, tabulate
from trainer.configuration import read_config, read_toml
from trainer.evaluate import measure
from trainer.evaluate import parser as evaluation_parser
from trainer.export import export, load_network
from trainer.labels import HEADS
from trainer.train import train


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """title: in words. without, heads, still_expression: of the window model. moving_faces: of the windows
    stage."""

    title: str
    without: tuple[str, ...] = ()
    heads: tuple[str, ...] = HEADS
    moving_faces: bool = True
    still_expression: bool = True


VARIANTS = {
    WHOLE: Variant(title="the whole model"),
    "no_flow": Variant(title="without flow", without=("flow",)),
    "no_ov_fusion": Variant(title="without O-V fusion", without=("pairwise_fusion",)),
    "no_ife": Variant(title="without IFE", without=("ife",)),
    "no_own_mean": Variant(title="without the own mean (window and baselines)", without=("own_mean",)),
    "still_faces": Variant(title="without moving faces (trained on still ones)", moving_faces=False),
    "no_still_expression": Variant(title="without what stills say", still_expression=False),
    "video_head": Variant(title="video head alone", heads=("video",)),
    "audio_head": Variant(title="audio head alone", heads=("audio",)),
    "fused_head": Variant(title="fused head alone", heads=("fused",)),
}
SOUND_PARTS = ("own_mean",)
"""What `without` means for the sound branch; the rest of it does not touch the voices stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an ablation's configuration says.

    windows, voices: configurations of the two stages; without voices, the windows stage starts as it says.
    tests: name to arguments of `trainer.evaluate`; data: what a leading `DATA/` in these stands for.
    out: folder of the runs.
    """

    name: str
    windows: dict[str, Any]
    voices: dict[str, Any] | None
    tests: dict[str, list[str]] = field(default_factory=dict)
    data: Path
    out: Path


def read_plan(file: Path, out: Path | None, data: Path) -> Plan:
    """The plan in a TOML file: `name`, `windows` and `voices` (files), and options laid over both (`[both]`)
    or one of them (`[only.windows]`, `[only.voices]`).

    Raises ValueError where a key is missing or a named file is not there.
    """
    config = read_toml(file)
    try:
        both, only = config.get("both", {}), config.get("only", {})
        windows, voices = (both | only.get(stage, {}) for stage in ("windows", "voices"))
        return Plan(
            name=config["name"],
            windows=read_config(Path(config["windows"])) | windows,
            voices=read_config(Path(config["voices"])) | voices if "voices" in config else None,
            tests=config.get("tests", {}),
            data=data,
            out=out or Path("runs") / "ablation" / config["name"],
        )
    except KeyError as error:
        raise ValueError(f"{file} lacks the key {error}.") from error
    except OSError as error:
        raise ValueError(f"{file} names a configuration that cannot be read: {error}.") from error


def windows_config(plan: Plan, variant: Variant, seed: int) -> dict[str, Any]:
    """The windows stage of a variant."""
    switches: dict[str, Any] = {"without": list(variant.without), "trained_heads": list(variant.heads)}
    if not variant.still_expression:
        switches["still_expression"] = False
    config = plan.windows | {
        "seed": seed,
        "moving_faces": variant.moving_faces,
        "window_model": plan.windows["window_model"] | switches,
    }
    if plan.voices is not None:
        config["voice_weights"] = str(_voices_folder(plan, variant, seed) / "best.safetensors")
    return config


def voices_config(plan: Plan, variant: Variant, seed: int) -> dict[str, Any]:
    """The voices stage under a variant; the same for all variants that leave the sound branch as it is."""
    assert plan.voices is not None, "asked only where there is one"
    without = [part for part in variant.without if part in SOUND_PARTS]
    return plan.voices | {"seed": seed, "window_model": plan.voices["window_model"] | {"without": without}}


def _voices_folder(plan: Plan, variant: Variant, seed: int) -> Path:
    return plan.out / f"voices_{_digest(voices_config(plan, variant, seed))}_{seed}"


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def run_variant(
    plan: Plan, name: str, seed: int, arguments: Sequence[str], console: Console
) -> dict[str, Any]:
    """One variant with one seed: its dev figures and its test reports; read where it was done before.

    arguments: for every evaluation. Raises as training, export and evaluation do.
    """
    variant = VARIANTS[name]
    config = windows_config(plan, variant, seed)
    asked = {"config": config, "tests": plan.tests}
    folder = plan.out / f"{name}_{_digest(asked)}_{seed}"
    file = folder / "result.json"
    if file.is_file():
        done: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return done
    console.print(f"{name}, seed {seed}: {folder}", highlight=False)
    if plan.voices is not None:
        train(voices_config(plan, variant, seed), _voices_folder(plan, variant, seed))
    dev = train(config, folder)
    tests = _play_tests(plan, folder, name, config, arguments, console) if plan.tests else {}
    result = {"variant": name, "seed": seed, "config": config, "dev": dev, "tests": tests}
    part = folder / "result.part"
    part.write_text(json.dumps(result, allow_nan=False), encoding="utf-8")
    part.replace(file)
    return result


def _play_tests(
    plan: Plan,
    folder: Path,
    name: str,
    config: dict[str, Any],
    arguments: Sequence[str],
    console: Console,
) -> dict[str, Any]:
    """The reports of all tests on what was trained into a folder, as the bundle that users would run."""
    network = load_network(config, folder / "best.safetensors")
    bundle = folder / "bundle"
    card = f"# {folder.name}\n\nA run of an ablation.\n"
    training = {"config": config}
    export(config, network, bundle, name=name, version="0", card=card, training=training)
    reports = {}
    for test, options in plan.tests.items():
        here = [re.sub("^DATA/", f"{plan.data.as_posix()}/", option) for option in options]
        asked = evaluation_parser().parse_args([*here, *arguments, "--bundle", str(bundle)])
        reports[test] = measure(asked, console)
    return reports


def ablate(
    plan: Plan, names: Iterable[str], seeds: int, arguments: Sequence[str], console: Console
) -> list[dict[str, Any]]:
    """All variants with seeds 1 to `seeds`, seed by seed, and the rows of their table."""
    names = [WHOLE, *(name for name in names if name != WHOLE)]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in range(1, seeds + 1):
        for name in names:
            runs[name].append(run_variant(plan, name, seed, arguments, console))
    return tabulate(
        {
            name: {"title": VARIANTS[name].title, "heads": VARIANTS[name].heads, "runs": done}
            for name, done in runs.items()
        }
    )


def write_table(folder: Path, plan: Plan, rows: list[dict[str, Any]], seeds: int) -> None:
    """`NAME.md` and `NAME.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tests = "".join(f"- {name}: `{' '.join(options)}`\n" for name, options in plan.tests.items())
    text = (
        f"Seeds 1 to {seeds}; mean over seeds, 95 % intervals. An interval over seeds is Student's t, wide "
        "with few seeds; one over speakers and seeds draws both anew. A difference whose interval holds 0 "
        f"may be chance.\n\n{tests}"
    )
    (folder / f"{plan.name}.md").write_text(markdown(rows, f"Ablation: {plan.name}", text), encoding="utf-8")
    values = {"name": plan.name, "seeds": seeds, "windows": plan.windows, "tests": plan.tests, "rows": rows}
    (folder / f"{plan.name}.json").write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m trainer.ablate", description=__doc__.split("\n\n")[0])
    p.add_argument("--config", type=Path, required=True, help="TOML, see trainer/ablation/live.toml")
    p.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    p.add_argument(
        "--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="beside the whole model"
    )
    p.add_argument("--out", type=Path, help="folder of the runs (default: runs/ablation/NAME)")
    p.add_argument("--table", type=Path, default=Path("trainer/ablation"), help="folder of the table")
    p.add_argument(
        "--data", type=Path, default=Path("data"), help="folder that DATA/ in the tests stands for"
    )
    p.add_argument("--jobs", type=int, default=1, help="processes of an evaluation")
    p.add_argument("--face-model", type=Path, help="YuNet's file")
    p.add_argument("--offline", action="store_true", help="never fetch the face model")
    chosen = p.parse_args(argv)
    arguments = ["--jobs", str(chosen.jobs)]
    arguments += ["--face-model", str(chosen.face_model)] if chosen.face_model else []
    arguments += ["--offline"] if chosen.offline else []
    console = Console(file=sys.stdout)
    try:
        plan = read_plan(chosen.config, chosen.out, chosen.data)
        rows = ablate(plan, chosen.only, chosen.seeds, arguments, console)
    except (De3Error, ValueError, OSError, av.FFmpegError) as error:
        Console(stderr=True).print(str(error), style="bold red", markup=False, highlight=False)
        return 2
    write_table(chosen.table, plan, rows, chosen.seeds)
    console.print(f"The table is {chosen.table / plan.name}.md.", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
