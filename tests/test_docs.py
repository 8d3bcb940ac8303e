"""What README and docs/ say holds: links lead somewhere, commands name scripts and flags that exist."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "README_zh.md",
    ROOT / "configs/README.md",
    ROOT / "pretrain/README.md",
    *sorted(ROOT.glob("docs/*.md")),
]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@cache
def help_of(script: str) -> str:
    run = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True)
    return run.stdout


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Every `python SCRIPT FLAGS` on a page, lines of code and phrases in backticks alike."""
    text = page.read_text("utf-8")
    code = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in code for line in block.splitlines()] + re.findall(r"`([^`]+)`", text)
    found = [re.search(r"(?:python|torchrun .*?) (\S+\.py)(.*)", line) for line in lines]
    return [
        (match[1].removeprefix("~/so-vits/"), re.findall(r"(?<=\s)--?[a-zA-Z]\w*", match[2].split(" # ")[0]))
        for match in found
        if match
    ]


@by_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


@by_page
def test_commands_name_scripts_and_flags_that_exist(page):
    for script, flags in commands(page):
        assert (ROOT / script).is_file(), f"{page.name}: there is no {script}"
        for flag in flags:
            assert re.search(rf"(?<![\w-]){re.escape(flag)}\b", help_of(script)), f"{page.name}: {script} has no {flag}"


def test_commands_are_found_on_the_pages():
    assert len(commands(ROOT / "README.md")) >= 10
    assert ("train.py", ["-c", "-m", "--base", "--max_steps"]) in commands(ROOT / "README.md")


def test_the_readme_is_a_first_walk():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_the_chinese_walk_has_the_commands_of_the_english_one():
    walk = (ROOT / "README.md").read_text("utf-8").split("## Quick start")[1].split("### A voice to keep")[0]
    english, chinese = (
        re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for text in (walk, (ROOT / "README_zh.md").read_text("utf-8"))
    )
    assert len(english) >= 10 and chinese == english


@by_page
def test_files_named_in_backticks_exist(page):
    for name in re.findall(
        r"`((?:modules|vdecoder|diffusion|cluster|tests|benchmarks|docs)/[\w/]+\.(?:py|md))`", page.read_text("utf-8")
    ):
        absent = {"modules/encoders/myvec.py", "modules/f0/mine.py", "diffusion/samplers/mine.py"}  # made up
        absent |= {"diffusion/onnx_export.py"}  # so-vits-svc's
        assert name in absent or (ROOT / name).is_file(), f"{page.name}: {name}"
