"""The tab Tools in a browser, its endpoints, and what it refuses."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError

from inspect_model import inspect
from modules.errors import UsageError
from modules.webui import tool_jobs
from modules.weights.checkpoint import load_checkpoint
from modules.weights.families import voice_weights

ROOT = Path(__file__).resolve().parents[2]
VOICE = ROOT / "pretrain" / "base-small"
SONG = ROOT / "samples" / "songs" / "sing_vocadito_14.flac"
SPEAKERS = list(json.loads((VOICE / "config.json").read_text("utf-8"))["spk"])
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def workspace(server):
    """Two copies of a voice, and a song of 1.5 s."""
    for name in ("a", "b"):
        folder = server.workspace / "trained" / name
        folder.mkdir(parents=True)
        for file in ("G_0.pth", "config.json"):
            shutil.copy(VOICE / file, folder)
    (server.workspace / "raw").mkdir()
    wav, rate = soundfile.read(SONG)
    soundfile.write(server.workspace / "raw" / "short.wav", wav[2 * rate : int(3.5 * rate)], rate)
    return server.workspace


class ToolsTab:
    """The tab in a browser, as somebody uses it."""

    def __init__(self, page) -> None:
        self.page = page
        page.get_by_role("tab", name="Tools").click()

    def open(self, tool: str) -> None:
        self.page.get_by_role("tab", name=tool.capitalize(), exact=True).click()

    def choose(self, box: str, *names: str) -> None:
        field = self.page.locator(f"#{box} input")
        for name in names:
            field.fill(name)
            field.press("Enter")

    def run(self, tool: str) -> str:
        """Presses the button of a tool, and returns what it says in the end."""
        self.page.locator(f"#{tool}-run").click()
        name = self.page.locator("b", has_text=tool)
        self.page.locator("#tools-state .job.running", has=name).wait_for()
        job = self.page.locator("#tools-state .job:not(.running)", has=name)
        job.wait_for(timeout=180_000)
        assert "done" in job.get_attribute("class").split(), job.inner_text()
        return self.page.locator("#tools-text textarea").input_value()

    def is_too_wide(self) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth > innerWidth")


@pytest.mark.slow
def test_every_tool_works_in_the_browser_and_fits_a_phone(server, workspace, open_page):
    tab = ToolsTab(open_page(server.url))
    page = tab.page

    tab.open("inspect")
    tab.choose("inspect-paths", "trained/a/G_0.pth")
    report = tab.run("inspect")
    assert all(name in report for name in SPEAKERS)

    tab.open("mix")
    tab.choose("mix-input", "trained/a/G_0.pth", "trained/b/G_0.pth")
    page.wait_for_function("document.querySelector('#mix-weights textarea').value.includes('b/G_0.pth\": 50')")
    weights = page.locator("#mix-weights textarea")
    weights.fill(weights.input_value().replace("50", "60", 1).replace("50", "40", 1))
    page.locator("#mix-mode input").click()
    page.get_by_role("option", name="linear").click()
    page.locator("#mix-output").locator("input, textarea").fill("trained/mixed.pth")
    assert "0.6000 of trained/a/G_0.pth" in tab.run("mix")

    tab.open("compress")
    tab.choose("compress-input", "trained/mixed.pth")
    page.locator("#compress-half input").check()
    assert "trained/mixed_release_half.pth" in tab.run("compress")

    tab.open("compare")
    with page.expect_file_chooser() as chooser:
        page.locator("#compare-upload").click()
    chooser.value.set_files(SONG)
    page.wait_for_function(f"document.querySelector('#compare-source input').value == 'raw/{SONG.name}'")
    tab.choose("compare-result", f"raw/{SONG.name}")
    assert "correlation 1.0000" in tab.run("compare")
    page.wait_for_function("document.querySelector('#tools-picture img')?.naturalWidth > 0")

    tab.open("evaluate")
    tab.choose("evaluate-model_path", "trained/a/G_0.pth")
    tab.choose("evaluate-spk_list", SPEAKERS[0])
    tab.choose("evaluate-input", "raw/short.wav")
    assert "Report: results/evaluation/report.html" in tab.run("evaluate")
    page.frame_locator("#tools-report iframe").get_by_role("table").first.wait_for()
    assert not page.locator("#tools-picture").is_visible()

    _check_files(workspace)
    _check_phone(ToolsTab(open_page(server.url, PHONE)))


def _check_phone(tab: "ToolsTab") -> None:
    """The last result is there, and nothing is cut off."""
    tab.page.locator("#tools-state .job.done", has_text="evaluate").wait_for()
    for tool in tool_jobs.TOOLS:
        tab.open(tool)
        tab.page.locator(f"#{tool}-run").scroll_into_view_if_needed()
        assert not tab.is_too_wide(), tool


def _check_files(workspace: Path) -> None:
    mixed, wanted = workspace / "trained" / "mixed.pth", VOICE / "G_0.pth"
    mixed, wanted = (voice_weights(load_checkpoint(path), path) for path in (mixed, wanted))
    for name, tensor in wanted.items():  # 0.6 x + 0.4 x in float32, rounded to the type that is stored
        torch.testing.assert_close(mixed[name], tensor, rtol=1e-3, atol=1e-6)
    half = workspace / "trained" / "mixed_release_half.pth"
    assert inspect(half)["is_half"] and half.stat().st_size < (workspace / "trained" / "mixed.pth").stat().st_size
    assert (workspace / "results" / "pictures" / f"{SONG.stem}_{SONG.stem}.png").is_file()


def test_programs_use_the_tools(server, workspace):
    client = Client(server.url, verbose=False)
    try:
        (workspace / "graph.onnx").write_bytes(b"\x08")
        assert json.loads(client.predict(["graph.onnx"], True, api_name="/inspect"))["kind"] == "ONNX graph"
        for paths in (["../../etc"], ["/etc/passwd"]):
            with pytest.raises(AppError, match="outside the workspace"):
                client.predict(paths, api_name="/inspect")
        one = json.dumps({"trained/a/G_0.pth": 100})
        with pytest.raises(AppError, match="at least two"):
            client.predict(one, api_name="/mix")
    finally:
        client.close()


@pytest.fixture
def parsers(monkeypatch, tmp_path):
    """The parsers of the tools, in an empty workspace where no job is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool_jobs.jobs, "start", lambda kind, stages, **about: (stages[0], about))
    for name in ("a", "b"):
        Path(f"{name}.pth").touch()
    return {
        tool.script: importlib.import_module(tool.script[:-3]).make_arguments() for tool in tool_jobs.TOOLS.values()
    }


@pytest.mark.parametrize(
    "weights, words",
    [
        ("a.pth: 60", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('["a.pth", "b.pth"]', "paths with their percents"),
        ('{"a.pth": 60, "a.pth": 40}', "twice"),
        ('{"a.pth": "60", "b.pth": 40}', "expected a number"),
        ('{"a.pth": true, "b.pth": 40}', "expected a number"),
        ('{"a.pth": 60, "../b.pth": 40}', "outside the workspace"),
        ('{"a.pth": 60, "/etc/passwd": 40}', "outside the workspace"),
        ('{"a.pth": 60, ".git/b.pth": 40}', "hidden"),
        ('{"a.pth": 60, "c.pth": 40}', "no such file"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(parsers, weights, words):
    with pytest.raises(UsageError, match=words):
        tool_jobs.start(tool_jobs.TOOLS["mix"], parsers, {"weights": weights})


@pytest.mark.parametrize(
    "tool, values",
    [
        ("mix", {"weights": '{"a.pth": 60, "b.pth": 40}', "output": "../mixed.pth"}),
        ("compress", {"input": "a.pth", "output": "/mixed.pth"}),
        ("compress", {"input": "a.pth", "output": str(VOICE / "small.pth")}),
        ("compress", {"input": str(VOICE / "G_0.pth")}),
        ("compare", {"source": "a.pth", "result": "b.pth", "output": "../a.png"}),
        ("evaluate", {"model_path": str(VOICE / "G_0.pth"), "input": ["a.pth"], "targets": "/etc"}),
        ("evaluate", {"model_path": str(VOICE / "G_0.pth"), "input": ["a.pth"], "whisper": "/etc"}),
        ("evaluate", {"model_path": str(VOICE / "G_0.pth"), "input": ["a.pth"], "whisper": ".."}),
        ("grid", {"model_path": ["a.pth"], "clean_names": ["/etc/passwd"]}),
        ("grid", {"model_path": [str(VOICE / "G_0.pth")], "clean_names": ["a.pth"], "cluster_model_path": "/etc/x"}),
    ],
)
def test_nothing_outside_the_workspace_is_read_or_written(parsers, tool, values):
    with pytest.raises(UsageError, match="outside the workspace"):
        tool_jobs.start(tool_jobs.TOOLS[tool], parsers, values)


def test_what_is_not_chosen_is_asked_for(parsers):
    nothing = dict.fromkeys(("input", "paths", "source", "result", "model_path"))
    nothing |= {"clean_names": None}
    for name in ("compress", "inspect", "compare", "evaluate", "grid"):
        for empty in (nothing, {**nothing, "paths": []}):
            with pytest.raises(UsageError, match=r"choose a .* first"):
                tool_jobs.start(tool_jobs.TOOLS[name], parsers, empty)


def test_weights_and_paths_reach_the_command_line(parsers):
    text = tool_jobs.weights_text(["a.pth", "b.pth"])
    stage, _ = tool_jobs.start(tool_jobs.TOOLS["mix"], parsers, {"weights": text, "output": "c.pth"})
    assert stage.command == ("mix_models.py", "-i", "a.pth", "b.pth", "-w", "50", "50", "-o", "c.pth")


def test_several_values_reach_a_grid(parsers):
    values = {
        "model_path": [str(VOICE / "G_0.pth")],
        "clean_names": ["a.pth"],
        "trans": "0 -12",
        "enhance": ["off", "on"],
    }
    stage, about = tool_jobs.start(tool_jobs.TOOLS["grid"], parsers, {**values, "f0_predictor": ["fcpe", "pm"]})
    words = " ".join(stage.command)
    assert "-n a.pth" in words and "-t 0 -12" in words and "-f0p fcpe pm" in words and "-eh off on" in words
    assert f"-c {(VOICE / 'config.json').as_posix()}" in words and about["page"] == "results/grid/a/index.html"


def test_equal_weights_sum_to_a_hundred():
    assert tool_jobs.read_weights(tool_jobs.weights_text(["a", "b", "c"])) == {"a": 34, "b": 33, "c": 33}


def test_a_range_needs_no_songs(parsers):
    tool, model = tool_jobs.TOOLS["evaluate"], str(VOICE / "G_0.pth")
    stage, _ = tool_jobs.start(tool, parsers, {"model_path": model, "input": [], "range": True, "output": ""})
    assert "--range" in stage.command and "-i" not in stage.command
    with pytest.raises(UsageError, match="choose a song or a folder first"):
        tool_jobs.start(tool, parsers, {"model_path": model, "input": [], "range": False})
