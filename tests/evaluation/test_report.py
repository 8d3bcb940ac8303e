"""The page: it parses, stands alone, and shows names as they are, whatever letters they have."""

import base64
import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from evaluation.stand_ins import Reader

from modules.audio.data_uri import audio_uri
from modules.evaluation.report import (
    ALL,
    COLUMNS,
    MEASURES,
    Row,
    build_page,
    summarise,
    write_scores,
    write_summary,
)


def rows() -> list[Row]:
    return [
        Row("one.wav", "alto", "audio/one", 3.0, 0, {"f0_correlation": 0.9, "wer": None, "mcd_db": math.nan}),
        Row("two.wav", "alto", "audio/two", 4.5, -2, {"f0_correlation": 0.8, "wer": None}),
        Row("one.wav", 'ten<or>&"x"', "audio/three", 3.0, 12, {"f0_correlation": 0.7}),
    ]


def page(rows: list[Row]) -> Reader:
    return Reader(build_page("A <b> & B", {"model": "<G>.pth"}, rows, summarise(rows), ["wer is <empty>"]))


def test_every_row_has_two_players_and_a_picture_and_nothing_comes_from_elsewhere():
    uri = audio_uri(np.zeros(16000, np.float32), 16000)
    found = page(
        [replace(row, source_uri=uri, result_uri=uri, picture_uri="data:image/png;base64,AAAA") for row in rows()]
    )
    assert len(found.all("audio")) == 6 and len(found.all("img")) == 3
    assert all(address.startswith(("data:", "#")) for address in found.addresses)
    assert not found.all("link") and not any("src" in attributes for attributes in found.all("script"))
    places = {attributes["id"] for attributes in found.all("section")}
    assert {attributes["href"] for attributes in found.all("a")} == {f"#{place}" for place in places}


def test_names_are_shown_as_they_are():
    found = page(rows())
    for text in ('ten<or>&"x"', "A <b> & B", "<G>.pth", "wer is <empty>", "audio/three"):
        assert text in found.text
    assert not found.all("audio") and not found.all("img") and not found.all("b")


def test_the_page_says_in_words_what_clips_and_means_are_worth():
    good, bad = rows()[0], rows()[2]
    found = page([replace(good, values={"f0_correlation": 0.99}), replace(bad, values={"f0_correlation": 0.96})])
    # The means of all and of each voice, and each clip.
    assert found.text.count("mostly follows the melody") == 3 and found.text.count("follows the melody") == 5


def test_the_player_holds_the_sound():
    wav = (0.5 * np.sin(np.arange(100_000) / 10)).astype(np.float32)
    kind, _, content = audio_uri(wav, 44100).partition(";base64,")
    assert kind == "data:audio/ogg"
    read, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert rate == 44100 and len(read) == 100_000
    assert np.corrcoef(read, wav)[0, 1] > 0.99
    assert audio_uri(wav[:0], 44100).startswith("data:audio/ogg")


def test_means_are_over_all_and_over_each_speaker():
    summary = summarise(rows())
    assert list(summary) == [ALL, "alto", 'ten<or>&"x"']
    assert summary[ALL]["f0_correlation"].mean == pytest.approx(0.8)
    assert summary["alto"]["f0_correlation"].count == 2
    assert set(summary[ALL]) == {"f0_correlation"}, "what nobody measured has no mean"


def test_the_tables_are_csv(tmp_path):
    write_scores(tmp_path / "scores.csv", rows())
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert tuple(found[0]) == COLUMNS and len(found) == 3
    assert found[2]["speaker"] == 'ten<or>&"x"' and found[1]["transpose"] == "-2"
    assert found[0]["verdict"] == "loses the melody in places"
    assert (found[0]["f0_correlation"], found[0]["wer"], found[0]["mcd_db"]) == ("0.9000", "", "nan")
    write_summary(tmp_path / "summary.csv", summarise(rows()))
    with (tmp_path / "summary.csv").open(encoding="utf-8", newline="") as file:
        means = list(csv.DictReader(file))
    assert [line["count"] for line in means] == ["3", "2", "1"]
    assert means[2]["low"] == means[2]["high"] == "" and means[2]["mean"] == "0.7000"
    assert {line["measure"] for line in means} <= {measure.name for measure in MEASURES}
