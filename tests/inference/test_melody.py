"""The melody in the user's hand: curves out and in, autotune and formants through the converter's stand-ins."""

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from inference.fake_voice import AUDIO, FakePredictor, fake_converter, silence, sung

from modules.contracts import F0
from modules.errors import UsageError
from modules.f0.base import fill_gaps
from modules.f0.curve_files import read_curve
from modules.f0.histogram import PitchHistogram
from modules.inference.arguments import conversion_arguments, without_effect
from modules.inference.auto_transpose import KeyChooser, song_histogram
from modules.inference.batch import Job, run_jobs
from modules.inference.chunks import Chunk
from modules.inference.melody import MelodyOptions, check_curves, curve_name
from modules.inference.options import ConversionOptions, make_options
from modules.inference.report import ConversionReport
from modules.inference.song_pitch import pitch_of_part
from modules.inference.stream import Song

HOP = AUDIO.hop_length / AUDIO.sampling_rate
ALTO = ConversionOptions("alto")


class MovingPredictor(FakePredictor):
    """A pitch that depends on the sound and on where its chunk begins, with gaps: no two chunks agree."""

    limits = (50.0, 1100.0)

    def predict(self, wav):
        n_frames = AUDIO.n_frames(len(wav))
        level = np.abs(wav[: n_frames * AUDIO.hop_length]).reshape(n_frames, -1).mean(axis=1)
        hz = 150 + 100 * level + 7 * np.sin(np.arange(n_frames) / 9 + len(wav))
        curve = fill_gaps(np.where((level > 0.01) & (np.arange(n_frames) % 17 > 1), hz, 0))
        return replace(curve, heard=np.full(n_frames, 300.0))


def song(rate: int) -> np.ndarray:
    return np.concatenate([silence(0.7, rate), sung(6.3, rate), silence(6.013, rate), sung(3, rate, 1)])


def sing(rate: int = 24000, wav: np.ndarray | None = None, cut=None, **melody) -> tuple[list, ConversionReport]:
    """The curves that the voice was given, and the report."""
    converter, synthesizer, _ = fake_converter(predictor=MovingPredictor([]))
    options = replace(ALTO, melody=MelodyOptions(**melody), **(cut or {}))
    report = ConversionReport()
    made = Song.from_array(song(rate) if wav is None else wav, rate, 16000)
    list(converter.stream(made, options, report))
    return [seen["f0"].numpy() for seen in synthesizer.seen], report


CUTS = [{}, {"clip_seconds": 5}, {"clip_seconds": 2.5, "overlap_seconds": 1}, {"max_segment_seconds": 5}]
CUTS += [{"max_segment_seconds": 2, "pad_seconds": 0}]


@pytest.mark.parametrize(("cut", "rate"), [*((cut, 24000) for cut in CUTS), (CUTS[-1], 22050)], ids=str)
def test_an_unchanged_curve_gives_the_same_and_writing_it_changes_nothing(tmp_path, cut, rate):
    path = tmp_path / "song.csv"
    plain, _ = sing(rate, cut=cut)
    written, _ = sing(rate, cut=cut, f0_out=path)
    again, report = sing(rate, cut=cut, f0_in=path)
    assert len(plain) >= 2 and len(plain) == len(written) == len(again)
    for one, two, three in zip(plain, written, again):
        assert np.array_equal(one, two) and np.array_equal(one, three)
    assert not [text for text in report.warnings if "song.csv" in text]


def test_a_written_curve_has_a_row_for_each_frame_of_the_song_silences_too(tmp_path):
    path = tmp_path / "song.csv"
    sing(f0_out=path)
    curve = read_curve(path)
    seconds = len(song(24000)) / 24000
    assert len(curve.times) == AUDIO.n_frames(round(16000 * seconds))
    np.testing.assert_allclose(curve.times, np.arange(len(curve.times)) * HOP, atol=1e-6)
    assert not curve.hz[: round(0.5 / HOP)].any() and not curve.hz[round(7.3 / HOP) : round(9.9 / HOP)].any()
    assert (curve.hz[round(1 / HOP) : round(6 / HOP)] > 0).mean() > 0.8


@pytest.mark.parametrize("cut", CUTS[2:], ids=str)
def test_a_mended_note_is_sung_where_it_was_written_and_nowhere_else(tmp_path, cut):
    path = tmp_path / "song.csv"
    plain, _ = sing(cut=cut, f0_out=path)
    rows = [line.split(",") for line in path.read_text("utf-8").splitlines()]
    for row in rows[1:]:
        if 3 <= float(row[0]) < 4:
            row[1:] = ["400.25", "1"]
    path.write_text("\n".join(";".join(row).replace(".", ",") for row in rows), "utf-8")
    mended, report = sing(cut=cut, f0_in=path)
    n_mended = sum(int((curve == np.float32(400.25)).sum()) for curve in mended)
    assert n_mended >= 100, "also as context of the next chunk"
    for before, after in zip(plain, mended):
        held = after == np.float32(400.25)
        away = ~np.convolve(held, np.ones(5), "same").astype(bool)  # beside it gaps are filled from its pitch
        np.testing.assert_allclose(after[away], before[away], rtol=1e-6)
    assert report.f0_range[1] == pytest.approx(400.25)


def test_a_part_of_a_song_is_taken_and_the_rest_is_predicted_and_said(tmp_path):
    path = tmp_path / "part.csv"
    path.write_text("time,hz\n" + "".join(f"{3 + index / 100:.2f},350\n" for index in range(100)), "utf-8")
    plain, _ = sing()
    found, report = sing(f0_in=path)
    assert (found[0] == 350).sum() == pytest.approx(100, abs=2) and np.array_equal(found[1], plain[1])
    (text,) = (text for text in report.warnings if "part.csv" in text)
    assert re.search(r"leaves out 7\.[3-9] s that begin at 0\.7 s and are sung", text) and "what fake finds" in text


def test_notes_where_the_song_is_silent_and_behind_its_end_are_said(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("time,hz\n" + "".join(f"{index / 10:.1f},350\n" for index in range(250)), "utf-8")
    _, report = sing(f0_in=path)
    texts = " ".join(text for text in report.warnings if "long.csv" in text)
    assert "has a pitch for" in texts and "stays silent" in texts and "goes on to 24.9 s, and the song ends" in texts


def test_with_both_the_curve_is_written_as_it_is_sung(tmp_path):
    part, out = tmp_path / "part.csv", tmp_path / "out.csv"
    part.write_text("time,hz\n2,350\n2.01,350\n2.02,350\n", "utf-8")
    sing(f0_in=part, f0_out=out)
    assert (read_curve(out).hz == 350).sum() == 3


def test_what_a_user_has_mended_is_not_doubted(tmp_path):
    path = tmp_path / "song.csv"
    _, before = sing(f0_out=path)
    path.write_text("time,hz\n" + "".join(f"{index / 100:.2f},222\n" for index in range(1700)), "utf-8")
    _, after = sing(f0_in=path)
    assert before.doubt.seconds > 7 and after.doubt.seconds == 0


def test_autotune_pulls_the_sung_notes_by_its_share_after_the_transposition():
    def tuned(**melody):
        converter, synthesizer, _ = fake_converter()  # 200 Hz: MIDI 55.35
        converter.convert_wav(sung(3, 16000), 16000, replace(ALTO, transpose=2, melody=MelodyOptions(**melody)))
        return 69 + 12 * np.log2(np.median(synthesizer.seen[0]["f0"].numpy()) / 440)

    assert tuned() == tuned(autotune=0.0, scale="C major") == pytest.approx(57.35, abs=0.01)
    assert tuned(autotune=1) == pytest.approx(57, abs=1e-4)
    assert tuned(autotune=0.5) == pytest.approx(57.175, abs=0.01)
    assert tuned(autotune=1, scale="Bb pentatonic") == pytest.approx(58, abs=1e-4)
    assert tuned(autotune=1, tuning=440 * 2 ** (0.2 / 12)) == pytest.approx(57.2, abs=1e-4)


def test_a_part_of_a_chunk_that_was_too_long_takes_its_frames():
    made = Song.from_array(sung(3, 48000), 48000, 16000)
    whole = Chunk(0, 144000, 0, 144000, 144000, 24000, 24000, audio=np.zeros(192000, np.float32))
    whole.f0 = F0(np.arange(400, dtype=np.float32), np.ones(400, np.float32), np.arange(400.0))
    part = Chunk(48000, 96000, 47000, 97000, 96000, audio=np.zeros(50000, np.float32))
    found = pitch_of_part(whole, part, made, AUDIO)
    assert len(found.f0) == len(found.uv) == 50000 // 3 // 160 and found.f0[0] == found.heard[0] == 148
    assert np.array_equal(np.diff(found.f0), np.ones(len(found.f0) - 1))


def test_only_the_encoder_hears_moved_formants():
    heard = []

    class Listener:
        name, dim, sampling_rate, hop_length = "fake", 2, 16000, 320

        def encode(self, wav):
            heard.append(wav)
            return fake_converter()[0].pipeline.encoder.encode(wav)

    wav = sung(2, 16000)
    for formant in (0.0, 3.0):
        converter, _, _ = fake_converter(encoder=Listener(), predictor=MovingPredictor([]))
        converter.convert_wav(wav, 16000, replace(ALTO, melody=MelodyOptions(formant=formant)))
    assert len(heard[0]) == len(heard[1]) and np.array_equal(heard[0][8000:-8000], wav)
    assert not np.array_equal(heard[0], heard[1])


def test_another_curve_is_another_request_and_its_name_is_in_the_metadata(tmp_path):
    converter, _, _ = fake_converter()
    path, curve = tmp_path / "song.wav", tmp_path / "mine.csv"
    soundfile.write(path, sung(1, 16000), 16000)
    curve.write_text("0,220\n1,220\n", "utf-8")
    melodies = [MelodyOptions(), MelodyOptions(f0_in=curve), MelodyOptions(autotune=1), MelodyOptions(formant=1)]
    options = [replace(ALTO, melody=melody) for melody in melodies]
    keys = [converter.key(path, each) for each in options]
    curve.write_text("0,220\n1,221\n", "utf-8")
    keys.append(converter.key(path, options[1]))
    assert len(set(keys)) == 5
    assert converter.key(path, replace(ALTO, melody=MelodyOptions(f0_out=tmp_path / "x.csv"))) == keys[0]
    told = [json.loads(converter.metadata(path, each)["comment"])["settings"] for each in options]
    assert not {"f0_in", "autotune", "formant"} & set(told[0])
    assert told[1]["f0_in"] == "mine.csv" and told[2]["scale"] == "chromatic" and told[3]["formant"] == 1


def test_resume_writes_a_curve_that_is_missing(tmp_path):
    source, out = tmp_path / "song.wav", tmp_path / "song.csv"
    soundfile.write(source, sung(2, 16000), 16000)
    job = Job(source, tmp_path / "results" / "song.flac", replace(ALTO, melody=MelodyOptions(f0_out=out)))
    for _ in range(2):
        run_jobs([job], fake_converter()[0], resume=True)
        assert len(read_curve(out).times) == 200
        out.unlink()


def test_an_interrupted_song_goes_on_with_its_curve(tmp_path):
    source, curve, results = tmp_path / "song.wav", tmp_path / "in.csv", []
    soundfile.write(source, song(16000), 16000)
    curve.write_text("0,250\n" + "".join(f"{second},{250 + second}\n" for second in range(1, 15)), "utf-8")
    for fails_at in (None, 2):
        converter, synthesizer, _ = fake_converter(predictor=MovingPredictor([]))
        job = Job(source, tmp_path / f"{fails_at}.wav", replace(ALTO, output_format="wav", melody=MelodyOptions(curve)))
        synthesizer.fails_at_call = fails_at
        if not fails_at:
            run_jobs([job], converter)
        else:
            with pytest.raises(Exception, match="--resume"):
                run_jobs([job], converter)
            seen = [synthesizer.seen[0]]
            converter, synthesizer, _ = fake_converter(predictor=MovingPredictor([]))
            run_jobs([job], converter, resume=True)
            synthesizer.seen = seen + synthesizer.seen
        results.append([each["f0"].numpy() for each in synthesizer.seen])
    assert len(results[0]) == len(results[1]) == 2
    assert all(np.array_equal(one, other) for one, other in zip(*results))


def test_auto_transpose_counts_the_notes_of_the_curve(tmp_path):
    curve = tmp_path / "song.csv"
    curve.write_text("".join(f"{index / 100:.2f},440\n" for index in range(1001)), "utf-8")
    pipeline = fake_converter()[0].pipeline
    path = tmp_path / "song.wav"
    soundfile.write(path, sung(10, 16000), 16000)
    open_song = Song.from_file(path, 16000)
    assert song_histogram(open_song, pipeline, -40, curve).median == pytest.approx(69, abs=0.26)
    voices = {"alto": PitchHistogram.from_curve(np.full(500, 440.0), np.ones(500))}
    chooser = KeyChooser(voices, ["alto"], Path("G_0.pth"), pipeline, -40)
    assert chooser.choose(path, "alto", "auto", curve) == 0
    assert KeyChooser(voices, ["alto"], Path("G_0.pth"), pipeline, -40).choose(path, "alto", "auto") > 10


def parsed(*words: str) -> argparse.Namespace:
    return conversion_arguments("inference_main.py", "").parse_args(list(words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--autotune", "1.5"], "--autotune is 1.5; it must lie between 0 and 1"),
        (["--autotune", "nan"], "--autotune is nan"),
        (["--formant", "13"], "--formant is 13"),
        (["--tuning", "300"], "--tuning is 300"),
        (["--scale", "H major"], "Scales: chromatic, major"),
        (["--f0_in", "x.csv", "-a"], "--f0_in: with -a the model predicts the pitch"),
        (["--autotune", "1", "-a"], "--autotune: with -a"),
        (["--f0_out", "x.txt"], r"--f0_out x\.txt: expected a name that ends in \.csv, or a folder"),
        (["--f0_in", "x.csv", "--f0_out", "./x.csv"], "is the curve of --f0_in too"),
    ],
)
def test_flags_that_cannot_be_are_refused(words, message):
    with pytest.raises(UsageError, match=message):
        make_options(parsed(*words), "alto", 0)


def test_the_flags_reach_the_options_and_what_has_no_effect_is_said():
    words = ["--f0_in", "a.csv", "--f0_out", "b", "--autotune", "0.5", "--scale", "D minor", "--tuning", "442"]
    wanted = MelodyOptions(Path("a.csv"), Path("b"), False, 0.5, "D minor", 442, 2)
    assert make_options(parsed(*words, "--formant", "2"), "alto", 0).melody == wanted
    assert "--scale and --tuning have no effect without --autotune" in without_effect(parsed("--scale", "D minor"))


def test_curves_of_several_songs_go_by_their_names(tmp_path, caplog):
    caplog.set_level("INFO")
    folder, songs = tmp_path / "curves", [("a", Path("raw/a.wav")), ("album/b ü.flac", Path("raw/album/b ü.flac"))]
    both = MelodyOptions(f0_in=folder, f0_out=tmp_path / "out")
    folder.mkdir()
    with pytest.raises(UsageError, match=r"holds no curve of these songs; expected a\.csv"):
        check_curves(both, songs)
    (folder / "a.csv").write_text("0,220\n1,220\n", "utf-8")
    check_curves(both, songs)
    assert "has no curve of album/b ü.flac; there the pitch is predicted" in caplog.text
    found = [both.for_song(*each) for each in songs]
    assert [each.f0_in for each in found] == [folder / "a.csv", None]
    assert [each.f0_out for each in found] == [tmp_path / "out/a.csv", tmp_path / "out/album/b ü.csv"]
    for label in ("/home/x/c.wav", "../c.wav", "./c.wav", "c.wav", "c"):
        assert curve_name(label, Path("x/c.wav")).as_posix() == "c.csv"


@pytest.mark.parametrize(
    ("melody", "message"),
    [
        ({"f0_in": Path("a.csv")}, "is the curve of one song, and 2 are named; name a folder"),
        ({"f0_out": Path("b.csv")}, "more than one song would be written there; name a folder"),
        ({"f0_in": Path("gone.csv")}, "no such file"),
    ],
)
def test_one_file_for_several_songs_is_refused(tmp_path, monkeypatch, melody, message):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("0,220\n1,220\n", "utf-8")
    with pytest.raises(UsageError, match=message):
        check_curves(MelodyOptions(**melody), [("a.wav", Path("a.wav")), ("b.wav", Path("b.wav"))])


def test_songs_whose_curves_would_have_one_name_are_refused(tmp_path):
    songs = [("a.wav", Path("a.wav")), ("a.flac", Path("a.flac"))]
    with pytest.raises(UsageError, match="more than one song would be written there; rename one"):
        check_curves(MelodyOptions(f0_out=tmp_path / "out"), songs)
    check_curves(MelodyOptions(f0_out=tmp_path / "out"), songs[:1] * 2)
