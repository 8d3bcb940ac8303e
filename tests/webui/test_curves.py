"""The curves of a training, from whatever its files hold."""

import re

import numpy as np
import pytest

from modules.training import scores, step
from modules.training.scores import ScoreBoard, Scores
from modules.webui import curves

LINE = "2026-11-29 17:34:30,141\tmonitor\tINFO\tstep {0}, epoch 1: mel {1} kl 1.500 total {1}, lr 0.0002, 1 steps/s"


def write_log(folder, *rows):
    (folder / "train.log").write_text("".join(LINE.format(*row) + "\n" for row in rows), "utf-8")


def test_the_names_are_those_of_the_training():
    assert set(curves.LOSSES) == set(step.Losses._fields)
    assert list(curves.SCORES) == list(scores.Scores._fields)


def test_losses_are_read_from_the_log(tmp_path):
    write_log(tmp_path, (20, "31.250"), (40, "28.000"))
    found = curves.chosen(curves.read_losses(tmp_path), ["mel", "kl", "lf0"])
    assert found == {"mel": [(20, 31.25), (40, 28.0)], "kl": [(20, 1.5), (40, 1.5)]}


def test_a_run_that_went_back_keeps_the_losses_that_led_to_it(tmp_path):
    write_log(tmp_path, (20, "9.000"), (40, "8.000"), (60, "7.000"), (40, "5.000"), (60, "4.000"))
    found = curves.read_losses(tmp_path)
    assert {at: losses["mel"] for at, losses in found.items()} == {20: 9.0, 40: 5.0, 60: 4.0}


def test_losses_that_are_no_numbers_are_left_out(tmp_path):
    write_log(tmp_path, (20, "nan"), (40, "inf"), (60, "7.000"))
    assert curves.chosen(curves.read_losses(tmp_path), ["mel"]) == {"mel": [(60, 7.0)]}


def test_a_long_curve_is_thinned_evenly_and_keeps_its_ends(tmp_path):
    write_log(tmp_path, *((at, "1.000") for at in range(1, 5001)))
    at = [step for step, _ in curves.chosen(curves.read_losses(tmp_path), ["mel", "kl"])["kl"]]
    assert len(at) == curves.POINTS and at[0] == 1 and at[-1] == 5000
    assert set(np.diff(at)) == {10, 11}


def test_scores_are_read_from_the_table(tmp_path):
    board = ScoreBoard(tmp_path / "scores.csv")
    board.add(250, 1, Scores(0.5, 20.0, 0.1, None))
    board.add(500, 2, Scores(0.4, float("nan"), 0.1, None))
    found = curves.read_scores(tmp_path)
    assert curves.chosen(found, ["mel", "f0_cents", "similarity"]) == {
        "mel": [(250, 0.5), (500, 0.4)], "f0_cents": [(250, 20.0)]
    }  # fmt: skip


def test_a_chart_has_its_curves_in_the_frame_and_marks_few_points():
    drawn = curves.draw("losses", {"mel": [(20, 31.25), (40, 28.0)], "<b>": [(20, 1.0), (40, -2.0)]})
    lines = re.findall(r'<polyline points="([^"]*)"', drawn)
    spots = [tuple(map(float, point.split(","))) for line in lines for point in line.split()]
    assert len(lines) == 2 and drawn.count("<circle") == 4 and "&lt;b&gt; -2" in drawn and "<b>" not in drawn
    assert all(0 < x < 600 and 0 < y <= 200 for x, y in spots)
    assert spots[0][0] == spots[2][0] < spots[1][0] and spots[0][1] < spots[1][1] < spots[3][1], "higher is further up"


def test_one_evaluation_is_seen_and_none_is_said():
    assert "<circle" in curves.draw("scores", {"mel": [(250, 0.64)]})
    assert curves.draw("scores", {}) == '<p class="empty">scores: none yet</p>'
    assert "<circle" not in curves.draw("losses", {"mel": [(at, 1.0) for at in range(100)]})


@pytest.mark.parametrize("content", [None, b"", b"\xff\x00" * 99, b"step,epoch\n1,2\n", b"\tINFO\tstep 1, epoch"])
def test_missing_and_damaged_files_give_empty_curves(tmp_path, content):
    if content is not None:
        for name in ("train.log", "scores.csv"):
            (tmp_path / name).write_bytes(content)
    for found in (curves.read_losses(tmp_path), curves.read_scores(tmp_path)):
        assert curves.chosen(found, ["mel"]) == {}


def test_the_signature_changes_with_the_files(tmp_path):
    before = curves.signature(tmp_path)
    assert curves.signature(tmp_path) == before
    write_log(tmp_path, (20, "31.250"))
    assert curves.signature(tmp_path) != before
