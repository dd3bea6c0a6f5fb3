"""The pages keep up with the program: links, flags, commands and dependencies that they name do exist."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from realtime.config import parser

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("*/*/README.md"))
    if not page.relative_to(ROOT).parts[0].startswith(".")
)
FRONT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    gone = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert gone == []


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_commands_name_modules_and_flags_that_exist(page: Path) -> None:
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    for module, rest in re.findall(r"python -m ((?:engine|realtime|trainer)(?:\.\w+)+)([^`#\n]*)", text):
        file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        assert file.is_file(), module
        known = "".join(beside.read_text(encoding="utf-8") for beside in file.parent.glob("*.py"))
        unknown = [flag for flag in re.findall(r"--[a-z][a-z-]*", rest) if f'"{flag}"' not in known]
        assert unknown == [], module
    for script in re.findall(r"python ((?:\w+/)+\w+\.py)", text):
        assert (ROOT / script).is_file()


def test_the_front_page_has_every_flag_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a narrow terminal would break the names of flags
    listed = re.findall(r"^\| `(--[a-z-]+)", FRONT, re.MULTILINE)
    assert sorted(listed) == sorted(set(re.findall(r"--[a-z][a-z-]+", parser().format_help())))


def test_the_front_page_accounts_for_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[<>=\[]", requirement)[0] for requirement in project["dependencies"]}
    listed = set(re.findall(r"^\| ([\w-]+)[^|]*\| \d+ \|", FRONT, re.MULTILINE))
    assert listed == named


def test_the_front_page_has_the_two_commands_in_their_order() -> None:
    first = FRONT.index("pip install -e . && python -m realtime.run")
    second = FRONT.index('pip install -e ".[dev]" && pytest')
    assert FRONT.index("libportaudio2") < first < second
    assert FRONT.index("torch==2.13.0") < second


def test_nothing_tracked_names_a_place_on_one_machine() -> None:
    pages = [page for page in PAGES if not (page.parent / "CARD.md").exists()]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        pages += [
            ROOT / name for name in listed.stdout.splitlines() if name.endswith((".toml", ".svg", ".sh"))
        ]
    places = re.compile(r"(?<![\w.~])/(?:home|root|work|Users|mnt)/(?!out\b)")
    found = [page.name for page in pages if page.exists() and places.search(page.read_text(encoding="utf-8"))]
    assert found == []
