"""What listeners' files say about settings, and what is refused."""

import csv

import pytest

from modules.errors import UsageError
from modules.grid.sheet import Cell, Sheet, read_sheet
from modules.grid.votes import COLUMNS, summarise


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A grid of two keys and two predictors."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/grid/song"
    folder.mkdir(parents=True)
    sheet = Sheet(folder / "grid.json")
    for key in ("0", "-12"):
        for predictor in ("fcpe", "pm"):
            settings = {"-t": key, "-f0p": predictor}
            sheet.cells[f"{key}{predictor}"] = Cell("song", settings, "", "cells/x.flac", 1.0)
    sheet.save()
    return folder


def write(path, *rows):
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *(("song", "song", "A", *row) for row in rows)])
    return path


def test_means_are_given_for_each_setting_and_the_best_comes_first(folder, tmp_path):
    one = write(folder / "votes.csv", ("0fcpe", 2, "", "yes"), ("0pm", 4, "", "yes"), ("-12pm", 5, "yes", "yes"))
    other = write(
        tmp_path / "downloaded.csv", ("0fcpe", 1, "", "yes"), ("-12pm", 5, "yes", "no"), ("gone", 3, "", "yes")
    )
    lines = summarise([one, other]).splitlines()
    assert lines[0].startswith("5 votes in 2 files")
    assert "1 vote left out: of cells that no grid.json knows" in lines
    assert "1 vote given after the page had said what is what" in lines
    predictors = lines[lines.index(next(line for line in lines if line.startswith("-f0p"))) :]
    assert predictors[1].split() == ["pm", "4.67", "[4.00,", "5.00]", "3", "2"]
    assert predictors[2].split() == ["fcpe", "1.50", "[1.00,", "2.00]", "2", "0"]
    assert any(line.startswith("-t -12 -f0p pm") and line.split()[-2:] == ["2", "2"] for line in lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no votes"),
        ("a,b\n1,2\n", "no column grid"),
        (",".join(COLUMNS) + "\nsong,song,A,0pm,6,,yes\n", "line 2: stars is '6'"),
        (",".join(COLUMNS) + "\n../../etc,song,A,zz,3,,yes\n", "no grid.json knows these cells"),
        (",".join(COLUMNS) + "\nsong,song,A,0pm,,,yes\n", "nobody has given stars"),
    ],
)
def test_a_file_that_holds_no_votes_is_refused(folder, tmp_path, text, reason):
    path = tmp_path / "votes.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=reason.replace("'", ".")):
        summarise([path])


@pytest.mark.parametrize("text", ["[1]", "{", '{"shown": [], "cells": {"a": {"file": "/etc/passwd"}}}', "[" * 50000])
def test_a_sheet_that_is_none_is_refused(folder, text):
    (folder / "grid.json").write_text(text, "utf-8")
    with pytest.raises(UsageError, match=r"no sheet of grid\.py|nested too deeply"):
        read_sheet(folder)
