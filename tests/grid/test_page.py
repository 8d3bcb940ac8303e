"""The page of a grid: equally loud, blind, and in a browser as a listener uses it."""

import base64
import csv
import io
import re
import time

import numpy as np
import pytest
import soundfile
from inference.fake_voice import sung
from webui.conftest import browser  # noqa: F401 (a fixture)

from modules.audio.lufs import integrated_loudness
from modules.grid.page import blind_order, build_page, equal_gains, letters
from modules.grid.sheet import Cell, Sheet
from modules.grid.votes import COLUMNS, read_votes

KEYS = ("1a" * 8, "2b" * 8, "3c" * 8)
SONG = 'so <script>alert(1)</script> & "ng"'


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """The folder of a grid of three cells with a page, of which each is twice as loud as the one before."""
    folder = tmp_path_factory.mktemp("grid")
    wav = sung(1.5, 16000)
    soundfile.write(folder / "song.wav", wav, 16000)
    (folder / "cells").mkdir()
    sheet = Sheet(folder / "grid.json", {}, list(KEYS))
    for index, key in enumerate(KEYS):
        soundfile.write(folder / f"cells/{key}.flac", wav * 2.0 ** (index - 2), 16000)
        scores = {"melody": 0.9 + index / 100, "wer": None}
        settings = {"-t": f"{12 * index}", "-f0p": "pm"}
        sheet.cells[key] = Cell(
            SONG, settings, f"python inference_main.py -t {index}", f"cells/{key}.flac", 1.5, scores
        )
    sheet.save()
    page = build_page("trial", sheet, {SONG: folder / "song.wav"})
    (folder / "index.html").write_text(page, "utf-8")
    return folder


def sounds(page: str) -> list[np.ndarray]:
    found = re.findall(r"data:audio/flac;base64,([\w+/=]+)", page)
    return [soundfile.read(io.BytesIO(base64.b64decode(content)))[0] for content in found]


def test_the_sounds_in_the_page_are_equally_loud_and_do_not_clip(grid):
    found = sounds((grid / "index.html").read_text("utf-8"))
    levels = [integrated_loudness(wav, 16000) for wav in found]
    assert len(levels) == 4 and max(levels) - min(levels) < 0.1
    assert max(np.abs(wav).max() for wav in found) < 1
    assert levels[0] == pytest.approx(
        integrated_loudness(soundfile.read(grid / f"cells/{KEYS[0]}.flac")[0], 16000), abs=0.1
    )


def test_nothing_in_the_page_says_what_is_what_and_names_are_escaped(grid):
    page = (grid / "index.html").read_text("utf-8")
    assert "inference_main" not in page and "f0p" not in page and "0.91" not in page
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert not re.search(r'(?:src|href)="', page), "everything is in the file"


def test_nothing_gets_louder_and_silence_stays_as_it_is():
    gains, level = equal_gains([-20.0, -26.0, -np.inf])
    assert gains == pytest.approx([0.5012, 1, 1], abs=1e-4) and level == -26
    assert equal_gains([-np.inf])[0] == [1.0]


def test_the_order_depends_on_the_cells_alone():
    ids = [f"{number:016x}" for number in range(8)]
    assert blind_order(ids) == blind_order(ids[::-1]) != ids
    assert sorted(blind_order(ids)) == ids


def test_there_are_letters_for_any_number_of_players():
    assert [letters(index) for index in (0, 25, 26, 701, 702)] == ["A", "Z", "AA", "ZZ", "AAA"]


def wait_until(page, expression: str) -> None:
    """Playwright's own way to wait is forbidden by the page's policy."""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def test_a_listener_votes_blind_and_finds_the_votes_again(grid, browser, tmp_path):  # noqa: F811
    context = browser.new_context(viewport={"width": 390, "height": 844}, accept_downloads=True)
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda request: wrong.append(request.url) if not request.url.startswith(("file:", "blob:")) else 0
    )
    page.goto((grid / "index.html").as_uri())
    order = [row.get_attribute("data-cell") for row in page.locator("li[data-cell]").all()]
    assert sorted(order) == sorted(KEYS) and page.locator("#answers").is_hidden()

    page.locator(".hear", has_text="A").click()
    wait_until(page, "decks[0].playing && decks[0].position > 0.1")
    page.keyboard.press("b")  # goes on where A was
    wait_until(page, "decks[0].playing && decks[0].chosen.textContent == 'B' && decks[0].offset > 0.05")
    page.keyboard.press("4")
    page.keyboard.press("+")
    page.keyboard.press(" ")
    page.locator(f"li[data-cell='{order[0]}'] label").nth(1).click()
    page.reload()
    assert [row.get_attribute("data-cell") for row in page.locator("li[data-cell]").all()] == order
    assert [page.locator(f"li[data-cell='{key}'] .full").count() for key in order] == [2, 4, 0]
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), "cut off on a phone"

    page.locator("#reveal").click()
    page.locator(f"li[data-cell='{order[2]}'] label").nth(0).click()  # no longer blind
    table = page.locator("#answers").inner_text()
    assert (
        "python inference_main.py -t 2" in table and "0.920" in table and SONG in table and "word errors" not in table
    )
    with page.expect_download() as download:
        page.locator("#download").click()
    votes = tmp_path / "votes.csv"
    download.value.save_as(votes)
    with votes.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and rows[0]["grid"] == "trial" and rows[0]["song"] == SONG
    assert [row["cell"] for row in rows] == order
    assert [(row["player"], row["stars"], row["best"], row["blind"]) for row in rows] == [
        ("A", "2", "", "yes"), ("B", "4", "yes", "yes"), ("C", "1", "", "no")
    ]  # fmt: skip
    assert [vote.stars for vote in read_votes(votes)] == [2, 4, 1]
    context.close()

    context = browser.new_context()  # another listener's browser, which has no votes
    page = context.new_page()
    page.goto((grid / "index.html").as_uri())
    page.locator("#import").set_input_files(votes)
    page.get_by_text("3 votes taken").wait_for()
    assert [page.locator(f"li[data-cell='{key}'] .full").count() for key in order] == [2, 4, 1]
    context.close()
    assert not wrong
