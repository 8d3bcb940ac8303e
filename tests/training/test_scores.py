"""What is measured of a sung clip, against errors put in on purpose; the table of a run, and its accidents."""

import csv
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from signals import babble, sung

from modules.audio.mel import mel_spectrogram
from modules.config.audio import AudioSpec
from modules.contracts import F0
from modules.errors import AudioError
from modules.f0.base import build_predictor
from modules.training.scores import COLUMNS, ScoreBoard, Scorer, Scores, mean_scores

AUDIO = AudioSpec(16000, 512, 160, 512, 40, 0.0, 8000.0)
RATE = AUDIO.sampling_rate
PM = build_predictor("pm", AUDIO, device="cpu")
NAN = math.nan


class FixedPredictor:
    """Finds the same curve in whatever it hears."""

    name = "fixed"

    def __init__(self, f0, uv):
        self.curve = F0(np.asarray(f0, np.float32), np.asarray(uv, np.float32))

    def predict(self, wav):
        return self.curve


class FirstOf:
    """Finds a given curve in the first clip, the recording, and what another predictor finds in the next."""

    def __init__(self, first, predictor):
        self.steps = iter((lambda wav: first, predictor.predict))

    def predict(self, wav):
        return next(self.steps)(wav)


class LevelEncoder:
    """A voice is two numbers: the level of the first half and of the second."""

    def embed(self, wav, sampling_rate):
        assert sampling_rate == RATE
        return torch.stack([half.abs().mean() for half in wav.chunk(2)])

    def similarity(self, a, b):
        return float(torch.cosine_similarity(a, b, dim=0))


def tone(hz: float, seconds: float = 1.5) -> torch.Tensor:
    return torch.from_numpy(sung(np.full(int(seconds * RATE), hz), RATE))


def score(generated, real, predictor=PM, encoder=None, f0=None) -> Scores:
    return Scorer(AUDIO, predictor if f0 is None else FirstOf(f0, predictor), encoder).score(generated, real)


def test_identical_clips_have_no_error():
    real = tone(220)
    assert score(real.clone(), real, encoder=LevelEncoder()) == pytest.approx((0, 0, 0, 1), abs=1e-6)
    assert score(real.clone(), real).similarity is None


@pytest.mark.parametrize("cents", [50, -50, 1200])
def test_a_tone_that_is_off_is_off_by_its_cents(cents):
    found = score(tone(220 * 2 ** (cents / 1200)), tone(220))
    assert found.f0_cents == pytest.approx(abs(cents), abs=2)  # Praat is exact to a cent on a steady tone
    assert found.voicing < 0.05 and found.mel > 0


def test_the_pitch_error_is_the_median_of_frames_voiced_in_both():
    wanted = F0(np.full(100, 100.0), (np.arange(100) < 80).astype(np.float32))
    off = np.full(100, 100 * 2 ** (10 / 1200))
    off[:30] *= 2  # of the 70 frames voiced in both, 40 are off by 10 cents and 30 by an octave more
    off[70:] *= 4  # what a predictor fills a gap with does not count
    uv = np.r_[np.ones(70), np.zeros(30)]
    found = score(tone(100, 1), tone(100, 1), FixedPredictor(off, uv), f0=wanted)
    assert found.f0_cents == pytest.approx(10, abs=0.01)
    assert found.voicing == pytest.approx(0.1)


def test_half_the_frames_unvoiced_is_a_voicing_error_of_one_half():
    real = tone(220, 2)
    generated = real.clone()
    generated[len(generated) // 2 :] = 0
    assert score(generated, real).voicing == pytest.approx(0.5, abs=0.03)  # two or three frames at the edge
    assert score(real, real, f0=F0(np.full(200, 220.0), np.ones(200))).voicing < 0.05


def test_the_mel_distance_is_that_of_the_log_mels():
    # Ten times quieter is ln 10 in every band that lies above the floor.
    real = torch.from_numpy(np.random.default_rng(1).standard_normal(RATE).astype(np.float32))
    assert score(real / 10, real).mel == pytest.approx(math.log(10), abs=0.01)
    other = torch.from_numpy(babble(RATE))
    expected = (mel_spectrogram(other, AUDIO) - mel_spectrogram(real, AUDIO)).abs().mean()
    assert score(other, real).mel == pytest.approx(float(expected), abs=1e-6)


def test_silence_is_scored_and_has_no_pitch():
    real = tone(220)
    found = score(torch.zeros(len(real)), real, encoder=LevelEncoder())
    assert found.mel > 1 and math.isnan(found.f0_cents) and found.voicing > 0.9 and found.similarity == 0
    both = score(torch.zeros(len(real)), torch.zeros(len(real)), encoder=LevelEncoder())
    assert both.mel == 0 and both.voicing == 0 and math.isnan(both.f0_cents) and math.isnan(both.similarity)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_wave_is_no_number_and_no_crash(bad):
    real = tone(220)
    generated = real.clone()
    generated[500] = bad
    assert all(math.isnan(value) for value in score(generated, real, encoder=LevelEncoder()))
    assert score(generated, real).similarity is None


def test_lengths_need_not_agree():
    real = tone(220)
    longer = torch.cat([real, tone(300, 0.2)])
    found = PM.predict(real.numpy())
    longer_curve = F0(np.r_[found.f0, found.f0[-3:]], np.r_[found.uv, found.uv[-3:]])
    curves = [found, F0(found.f0[:-3], found.uv[:-3]), longer_curve]
    for generated, wanted in ((real, real), (longer, real), (real, longer)):
        for curve in curves:
            assert score(generated, wanted, f0=curve) == pytest.approx((0, 0, 0, None), abs=1e-6)


def test_gradients_and_precision_of_the_network_do_not_matter():
    real = tone(220)
    generated = real.double().requires_grad_(True)
    assert score(generated, real, encoder=LevelEncoder()) == pytest.approx((0, 0, 0, 1), abs=1e-6)


def test_too_short_for_a_spectrum_is_refused():
    with pytest.raises(AudioError, match="too short"):
        score(torch.ones(100), torch.ones(100))


def test_the_mean_leaves_out_what_could_not_be_measured():
    clips = [Scores(1.0, 10.0, 0.0, 0.5), Scores(2.0, NAN, 0.5, NAN), Scores(3.0, 20.0, 0.1, 0.7)]
    assert mean_scores(clips) == pytest.approx((2.0, 15.0, 0.2, 0.6))
    assert mean_scores([Scores(1.0, NAN, 0.0, None)] * 2) == pytest.approx((1.0, NAN, 0.0, None), nan_ok=True)
    assert math.isnan(mean_scores([Scores(1.0, NAN, 0.0, NAN)]).similarity)
    assert math.isnan(mean_scores([clips[0], Scores(NAN, NAN, NAN, NAN)]).mel), "a broken clip must not be overlooked"
    assert mean_scores([]) == pytest.approx((NAN, NAN, NAN, None), nan_ok=True)


def test_the_line_for_the_log():
    assert str(Scores(0.5123, 14.2, 0.0321, 0.8099)) == (
        "mel 0.512, pitch off by 14 cents, voicing wrong in 3.2 %, similarity 0.81"
    )
    assert str(Scores(0.5, NAN, 0.0, None)) == "mel 0.500, voicing wrong in 0.0 %"
    assert str(Scores(NAN, NAN, NAN, NAN)) == "mel nan"


def of_mel(mel: float) -> Scores:
    return Scores(mel, 12.34, 0.05, 0.8)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def filled(path: Path, **mels: float) -> ScoreBoard:
    """A board with rows `s100=0.5`: step 100, mel 0.5."""
    board = ScoreBoard(path)
    for name, mel in mels.items():
        board.add(int(name[1:]), int(name[1:]) // 100, of_mel(mel))
    return board


@pytest.fixture
def path(tmp_path):
    return tmp_path / "лог" / "scores.csv"


def test_a_new_board_is_empty_and_writes_nothing(path):
    board = ScoreBoard(path)
    assert board.best is None and board.evaluations_since_best == 0
    assert not path.parent.exists()


def test_what_was_added_is_in_the_file_as_people_read_it(path):
    board = ScoreBoard(path)
    assert board.add(100, 1, Scores(0.51234567, 14.26, 0.0321, 0.81))
    assert not board.add(200, 2, Scores(0.6, NAN, 0.5, None))
    assert path.read_bytes().decode("utf-8") == (
        "step,epoch,mel,f0_cents,voicing,similarity,best\n"
        "100,1,0.5123,14.3,0.0321,0.8100,yes\n"
        "200,2,0.6000,nan,0.5000,,\n"
    )
    assert not list(path.parent.glob(".*")), "a temporary file was left"


def test_the_best_is_the_lowest_mel_and_the_first_of_equals(path):
    board = ScoreBoard(path)
    mels = [math.inf, 0.9, 0.7, 0.8, 0.7, NAN, 0.6]
    assert [board.add(100 * at, at, of_mel(mel)) for at, mel in enumerate(mels, 1)] == [0, 1, 1, 0, 0, 0, 1]
    assert board.best == (700, 0.6)
    assert [row["step"] for row in table(path) if row["best"]] == ["700"]


def test_evaluations_since_the_best_are_counted(path):
    board = ScoreBoard(path)
    counts = []
    for at, mel in enumerate([NAN, NAN, 0.7, 0.8, 0.9, 0.6], 1):
        board.add(at, 1, of_mel(mel))
        counts.append(board.evaluations_since_best)
    assert counts == [1, 2, 0, 1, 2, 0]


def test_a_board_goes_on_where_it_was(path):
    board = filled(path, s100=0.50004, s200=0.4, s300=0.45)
    before = path.read_bytes()
    again = ScoreBoard(path, 300)
    assert again.best == board.best == (200, 0.4) and again.evaluations_since_best == 1
    assert path.read_bytes() == before
    assert again.add(400, 4, of_mel(0.3))
    assert [row["step"] for row in table(path)] == ["100", "200", "300", "400"]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_resumed_run_judges_as_one_that_was_not(path, resumed):
    board = filled(path, s100=0.51236)
    board = ScoreBoard(path, 100) if resumed else board
    assert not board.add(200, 2, of_mel(0.51238))  # lower than the 0.5124 of the file, but not than what was measured


def test_rows_after_the_step_of_a_resumed_run_are_dropped(path):
    filled(path, s100=0.5, s200=0.4, s300=0.3)
    before = path.read_bytes()
    board = ScoreBoard(path, 200)
    assert board.best == (200, 0.4) and path.read_bytes() == before
    assert board.add(250, 2, of_mel(0.35))
    assert [row["step"] for row in table(path)] == ["100", "200", "250"]
    assert not list(path.parent.glob("*.bak-*"))


def test_a_new_run_sets_the_table_of_another_one_aside(path, caplog):
    filled(path, s100=0.5, s200=0.4)
    before = path.read_bytes()
    board = ScoreBoard(path)
    assert board.best is None and path.read_bytes() == before, "looking must not change anything"
    with caplog.at_level(logging.WARNING):
        assert board.add(50, 1, of_mel(0.9))
        assert not board.add(60, 1, of_mel(0.95))
    assert "scores.csv.bak-1" in caplog.text
    assert path.with_name("scores.csv.bak-1").read_bytes() == before
    assert [row["step"] for row in table(path)] == ["50", "60"] and len(list(path.parent.iterdir())) == 2


def test_a_step_added_again_is_replaced(path):
    board = filled(path, s100=0.5, s200=0.4)
    assert not board.add(200, 2, of_mel(0.6)) and board.best == (100, 0.5)
    assert [(row["step"], row["mel"], row["best"]) for row in table(path)] == [
        ("100", "0.5000", "yes"),
        ("200", "0.6000", ""),
    ]
    assert board.add(100, 1, of_mel(0.45)) and board.evaluations_since_best == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"name,price\nbread,3\n",
        b"step;epoch;mel;f0_cents;voicing;similarity;best\n",
        ",".join(COLUMNS).encode() + b"\n100,1,0.5,1.0,0.1\n",
        ",".join(COLUMNS).encode() + b"\n100,1,good,1.0,0.1,,\n",
        ",".join(COLUMNS).encode() + b"\n1.5,1,0.5,1.0,0.1,,\n",
        ",".join(COLUMNS).encode() + b'\n100,1,0.5,1.0,0.1,,"yes\n',
        ",".join(COLUMNS).encode() + b"\n100,1,\x00,1.0,0.1,,\n",
    ],
)
def test_a_file_that_is_no_table_is_kept_under_another_name(path, caplog, content):
    path.parent.mkdir()
    path.write_bytes(content)
    path.with_name("scores.csv.bak-1").write_bytes(b"older")
    with caplog.at_level(logging.WARNING):
        board = ScoreBoard(path, 1000)
    assert "scores.csv is not a table of scores" in caplog.text and "scores.csv.bak-2" in caplog.text
    assert "\n" not in caplog.messages[0]
    assert board.best is None and board.add(1100, 3, of_mel(0.5))
    assert path.with_name("scores.csv.bak-2").read_bytes() == content
    assert path.with_name("scores.csv.bak-1").read_bytes() == b"older"
    assert len(table(path)) == 1


def test_a_table_that_a_spreadsheet_saved_is_read(path):
    filled(path, s100=0.5, s200=0.4)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert ScoreBoard(path, 200).best == (200, 0.4)


def test_a_table_that_cannot_be_written_does_not_end_the_run(path, caplog, monkeypatch):
    board = filled(path, s100=0.5)
    before = path.read_bytes()

    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Path, "replace", refuse)
        assert board.add(200, 2, of_mel(0.4))
    assert "could not be written" in caplog.text and "Permission denied" in caplog.text
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1
    board.add(300, 3, of_mel(0.45))
    assert [row["step"] for row in table(path)] == ["100", "200", "300"]
