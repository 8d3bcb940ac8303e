"""evaluate.py from the command line to its tables and its page, with a stand-in voice and stand-in scorers."""

import base64
import csv
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from evaluation.stand_ins import Reader, install_dnsmos, install_whisper, make_whisper_folder, uninstall
from inference.fake_voice import AUDIO, fake_converter, folder_listing, sung

import assemble
import evaluate
from modules.config.io import save_config
from modules.config.schema import Config
from modules.contracts import F0, Synthesis
from modules.data import pitch
from modules.errors import UsageError, UserError
from modules.evaluation import evaluator
from modules.evaluation.scale import BUILT_IN, Measured
from modules.f0 import base as f0_predictors
from modules.f0.histogram import PitchHistogram
from modules.f0.voice_range import VoiceRange
from modules.metrics import speaker as speaker_encoder
from modules.metrics.melody import draw_comparison
from modules.weights.card import read_card
from modules.weights.checkpoint import save_weights

OUT = Path("results/evaluation")
RESULTS = {
    f"audio/songs/{name}.wav_0key_{speaker}_sovits_pm.flac" for name in ("one", "two") for speaker in ("alto", "tenor")
}


class LoudnessPredictor:
    """Hears loud sound as high: the fake voice sings its source's loudness, so that both have one melody."""

    name = "loudness"

    def predict(self, wav):
        n_frames = AUDIO.n_frames(len(wav))
        frames = wav[: n_frames * AUDIO.hop_length].reshape(n_frames, AUDIO.hop_length)
        return F0((200 * (1 + np.sqrt((frames**2).mean(1)))).astype(np.float32), np.ones(n_frames, np.float32))


class LoudnessEncoder:
    """A speaker encoder that knows nothing but loudness."""

    def embed(self, wav, rate):
        return torch.nn.functional.normalize(torch.tensor([float(np.sqrt(np.mean(np.square(wav)))), 0.3]), dim=0)


@pytest.fixture
def voice(tmp_path, monkeypatch):
    """A workspace with two songs and a stand-in voice with two speakers; all optional scorers are missing."""
    monkeypatch.chdir(tmp_path)
    Path("songs").mkdir()
    for name, seconds in (("one", 3.0), ("two", 4.0)):
        soundfile.write(f"songs/{name}.wav", sung(seconds, 16000), 16000)
    converter, synthesizer, _ = fake_converter(predictor=LoudnessPredictor())
    synthesizer.requests = []
    config = Config(spk={"alto": 0, "tenor": 1})
    config.model.speech_encoder, config.model.ssl_dim = "whisper-ppg-base", 512  # which is in the repository
    save_config(config, "v/config.json")
    Path("v/G_1.pth").touch()
    monkeypatch.setattr(assemble, "load_converter", lambda request: synthesizer.requests.append(request) or converter)
    synthesizer.second_predictors = []

    def build_predictor(name, audio, device):
        synthesizer.second_predictors.append(name)
        return LoudnessPredictor()

    monkeypatch.setattr(f0_predictors, "build_predictor", build_predictor)
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path)  # where no model is
    monkeypatch.setattr(speaker_encoder, "find_speaker_encoder", lambda: None)
    uninstall(monkeypatch, "faster_whisper", "speechmos")
    monkeypatch.setattr(evaluator, "draw_comparison", lambda path, *what: path.write_bytes(b"PNG"))  # a second each
    return synthesizer


def run(*flags: str) -> int:
    return evaluate.main(["-m", "v/G_1.pth", "-i", "songs", "-f0p", "pm", *flags])


def table(name: str = "scores.csv") -> list[dict]:
    with (OUT / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def report() -> Reader:
    return Reader((OUT / "report.html").read_text("utf-8"))


def test_every_source_in_every_voice_has_a_row_two_players_and_a_picture(voice, capsys):
    assert run() == 0
    assert folder_listing(OUT) == {"scores.csv", "summary.csv", "report.html", *RESULTS}
    rows = table()
    assert {row["result"] for row in rows} == RESULTS
    assert [(row["source"], row["speaker"]) for row in rows] == [
        (f"songs/{name}.wav", speaker) for name in ("one", "two") for speaker in ("alto", "tenor")
    ]
    page = report()
    assert len(page.all("audio")) == 8 and len(page.all("img")) == 4
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    means = {(row["speaker"], row["measure"]): row for row in table("summary.csv")}
    assert means["(all)", "f0_correlation"]["count"] == "4" and means["tenor", "f0_correlation"]["count"] == "2"
    printed = capsys.readouterr().out
    assert "Means over 4 clips" in printed and "f0_correlation" in printed and "report.html" in printed
    request = voice.requests[0]
    assert (request.model_path, request.f0_predictor) == (Path("v/G_1.pth"), "pm")


def test_the_picture_in_the_page_is_a_png(voice, monkeypatch):
    monkeypatch.setattr(evaluator, "draw_comparison", draw_comparison)
    assert evaluate.main(["-m", "v/G_1.pth", "-i", "songs/one.wav", "-f0p", "pm", "-s", "alto"]) == 0
    picture = base64.b64decode(report().all("img")[0]["src"].partition(",")[2])
    assert picture.startswith(b"\x89PNG") and len(picture) > 20000


def test_a_voice_that_follows_its_source_scores_well(voice):
    assert run("-s", "alto") == 0
    for row in table():
        # Not 1: frames of 10 ms hold 2.2 periods of the tone, so that its loudness ripples, unlike the result's.
        assert float(row["f0_correlation"]) > 0.95 and float(row["f0_rmse_cents"]) < 20
        assert row["f0_correlation_second"] == row["f0_correlation"], "both predictors are the same stand-in"
        assert float(row["missed_voicing"]) == 0 and row["false_voicing"] == "nan", "all is voiced"
        assert abs(float(row["level_db"])) < 0.1 and float(row["level_correlation"]) > 0.9
        assert row["verdict"] == "mostly follows the melody, notes are held, level fits, loudness follows"
        assert abs(float(row["f0_offset_cents"])) < 30
        assert float(row["realtime_factor"]) > 0
    assert [float(row["seconds"]) for row in table()] == [3.0, 4.0]


def test_a_result_at_half_the_amplitude_is_six_db_too_quiet(voice, monkeypatch):
    infer = voice.infer
    monkeypatch.setattr(voice, "infer", lambda *some, **more: Synthesis(infer(*some, **more).wav / 2, None))
    assert run("-s", "alto") == 0
    for row in table():
        assert float(row["level_db"]) == pytest.approx(-6.0, abs=0.1) and "too quiet by 6 dB" in row["verdict"]


def test_the_noise_scale_that_is_asked_for_reaches_the_voice_and_the_page(voice, monkeypatch):
    infer, seen = voice.infer, []
    monkeypatch.setattr(voice, "infer", lambda *some, **more: seen.append(some[5]) or infer(*some, **more))
    assert run("-s", "alto", "-ns", "0.1") == 0
    assert set(seen) == {0.1}
    assert "noise scale" in Path("results/evaluation/report.html").read_text("utf-8")


def test_what_was_asked_for_is_no_offset(voice):
    assert run("-s", "alto", "-t", "12") == 0
    assert all(row["transpose"] == "12" for row in table())
    assert all(abs(float(row["f0_offset_cents"]) + 1200) < 30 for row in table()), "the stand-in does not transpose"


def test_missing_extras_leave_their_columns_empty_and_say_so_in_one_line_each(voice, caplog):
    caplog.set_level("INFO")
    assert run() == 0
    columns = ("similarity_target", "similarity_source", "wer", "mcd_db", "dnsmos", "dnsmos_source")
    assert all(row[column] == "" for row in table() for column in columns)
    said = [line for line in caplog.text.splitlines() if " empty: " in line]
    assert len(said) == 4
    text = report().text
    for part in ("resemblyzer", "faster-whisper is not installed", "speechmos is not installed", "--parallel"):
        assert part in text and sum(part in line for line in said) == 1


def test_all_scorers_fill_their_columns(voice, monkeypatch):
    whisper = install_whisper(monkeypatch)
    whisper.words *= 3
    install_dnsmos(monkeypatch)
    monkeypatch.setattr(speaker_encoder, "find_speaker_encoder", lambda: Path("x.pt"))
    monkeypatch.setattr(speaker_encoder, "load_speaker_encoder", lambda path, device: LoudnessEncoder())
    for folder, name in (("targets/alto", "any"), ("takes/alto", "one")):
        Path(folder).mkdir(parents=True)
        soundfile.write(f"{folder}/{name}.wav", sung(3.0, 16000), 16000)
    assert run("--targets", "targets", "--parallel", "takes", "--whisper", str(make_whisper_folder(Path("tiny")))) == 0
    first, second, third, fourth = table()
    for row in (first, second, third, fourth):
        assert row["wer"] == "0.0000" and row["dnsmos"] == row["dnsmos_source"] != ""
        assert 0 < float(row["similarity_source"]) <= 1
    assert whisper.asked[0][0] == "tiny" and [settings["language"] for _, settings in whisper.asked[1:4]] == [
        None,
        "en",
        "en",
    ]
    assert 0 < float(first["similarity_target"]) <= 1 and second["similarity_target"] == ""
    assert float(first["mcd_db"]) > 0 and second["mcd_db"] == third["mcd_db"] == ""
    text = report().text
    assert "wer flatters this voice: its encoder, whisper-ppg-base, is of the family" in text
    assert first["similarity_before"] != "" and "words are understood" in first["verdict"]
    assert "similarity_target is empty for tenor: no recordings in targets/SPEAKER/" in text
    assert "mcd_db is empty for 3 of 4 clips: takes has no tenor/one.wav, alto/two.wav, tenor/two.wav" in text


def test_a_second_predictor_measures_what_the_first_does(voice, monkeypatch, capsys):
    assert run("-s", "alto") == 0 and run("-s", "alto", "--second_f0_predictor", "dio", "--overwrite") == 0
    assert evaluate.main(["-m", "v/G_1.pth", "-i", "songs", "--overwrite"]) == 0
    assert voice.second_predictors == ["fcpe", "dio", "pm"]
    assert "second F0 predictorpm" in report().text.replace("\n", "")
    assert "In words:\n  alto: mostly follows the melody, " in capsys.readouterr().out

    class Deaf(LoudnessPredictor):
        def predict(self, wav):
            curve = super().predict(wav)
            return F0(curve.f0[::-1].copy(), np.arange(len(curve.f0)) % 2)

    monkeypatch.setattr(f0_predictors, "build_predictor", lambda name, audio, device: Deaf())
    assert run("-s", "alto", "--overwrite") == 0
    for row in table():
        assert float(row["false_voicing_second"]) == float(row["missed_voicing_second"]) == 0
        assert row["f0_correlation_second"] != row["f0_correlation"]


def test_of_few_words_no_error_is_measured_and_that_is_said(voice, monkeypatch):
    whisper = install_whisper(monkeypatch)
    make_whisper_folder(Path("pretrain/faster-whisper"))
    assert run("-s", "alto", "--language", "it") == 0
    assert [row["wer"] for row in table()] == ["nan", "nan"]
    assert [settings["language"] for _, settings in whisper.asked[1:]] == ["it", "it"], "results are not transcribed"
    said = "wer of songs/one.wav is not measured: 3 words heard in the source, at least 8 are needed"
    assert said in report().text
    whisper.words = ["one two three", "four five six seven eight"]
    assert run("-s", "alto", "--overwrite") == 0
    assert [row["wer"] for row in table()] == ["0.0000", "0.0000"] and "not measured" not in report().text


def test_other_encoders_are_judged_without_a_warning(voice, monkeypatch):
    install_whisper(monkeypatch)
    make_whisper_folder(Path("pretrain/faster-whisper"))
    config = Config(spk={"alto": 0})
    config.model.speech_encoder, config.model.ssl_dim = "hubertsoft", 256
    save_config(config, "v/config.json")
    monkeypatch.setattr("modules.pretrained.needs.require", lambda *files: None)
    assert run() == 0 and "flatters" not in report().text


def test_a_scorer_that_fails_on_a_clip_leaves_one_cell_empty(voice, monkeypatch, caplog):
    whisper = install_whisper(monkeypatch)
    make_whisper_folder(Path("pretrain/faster-whisper"))
    whisper.error = RuntimeError("no memory")
    assert run("-s", "alto") == 0
    assert [row["wer"] for row in table()] == ["", ""] and "Whisper cannot transcribe it (no memory)" in caplog.text


def test_a_broken_source_is_reported_and_the_rest_goes_on(voice, caplog):
    Path("songs/broken.wav").write_bytes(b"RIFFnothing")
    assert run() == 1
    assert len(table()) == 4 and "broken.wav" in caplog.text
    assert "Failed: songs/broken.wav" in report().text
    assert not list(OUT.rglob(".*"))


def test_if_nothing_can_be_evaluated_it_says_so(voice):
    for path in Path("songs").iterdir():
        path.write_bytes(b"RIFFnothing")
    with pytest.raises(UsageError, match="no clip could be evaluated"):
        run()
    assert not OUT.exists()


def test_an_earlier_evaluation_is_replaced_only_with_the_flag(voice):
    assert run("-s", "alto") == 0
    before = (OUT / "scores.csv").read_bytes()
    with pytest.raises(UsageError, match=r"holds scores\.csv, summary\.csv, report\.html, audio already.*--overwrite"):
        run()
    assert (OUT / "scores.csv").read_bytes() == before
    assert run("--overwrite") == 0 and len(table()) == 4
    assert run("-o", "elsewhere", "-s", "alto") == 0 and Path("elsewhere/report.html").is_file()


def test_sources_of_one_name_are_refused_before_anything_is_converted(voice, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "song.wav", sung(2, 16000), 16000)
    paths = [str(tmp_path / folder / "song.wav") for folder in ("a", "b")]
    with pytest.raises(UsageError, match="would both be written"):
        evaluate.main(["-m", "v/G_1.pth", "-i", *paths])
    assert not OUT.exists()
    assert evaluate.main(["-m", "v/G_1.pth", "-i", paths[0]]) == 0
    assert {row["source"] for row in table()} == {"song.wav"}, "tables do not tell where files lie on this disk"


def test_long_sources_are_cut_and_players_can_be_left_out(voice):
    assert run("--max_seconds", "2", "--no_players", "-s", "alto") == 0
    assert [row["seconds"] for row in table()] == ["2.00", "2.00"]
    assert not report().all("audio") and len(report().all("img")) == 2
    assert all(soundfile.info(path).frames == 32000 for path in OUT.rglob("*.flac"))


def test_keys_can_be_chosen_by_the_voices_notes(voice, monkeypatch):
    hz = np.full(400, 290 * 2 ** (7 / 12))  # the songs' loudness is heard near 270 to 310 Hz
    spread = hz * 2 ** (np.random.default_rng(1).normal(0, 1, 400) / 12)
    histogram = PitchHistogram.from_curve(spread, np.ones(400))
    monkeypatch.setattr(pitch, "voice_histograms", lambda path, card: {"alto": histogram})
    assert run("-s", "alto", "-t", "auto") == 0
    assert all(5 <= int(row["transpose"]) <= 9 for row in table())
    assert run("-s", "alto", "-t", "auto-octave", "--overwrite") == 0
    assert all(int(row["transpose"]) in (0, 12) for row in table())
    with pytest.raises(UsageError, match="'tenor' was trained on"):
        run("-t", "auto", "--overwrite")


def test_the_same_voice_scores_the_same_twice(voice):
    assert run() == 0
    first = [{**row, "realtime_factor": ""} for row in table()]
    assert run("--overwrite") == 0
    assert [{**row, "realtime_factor": ""} for row in table()] == first


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_seconds", "0"], "between 1 and 600"),
        (["--max_seconds", "nan"], "between 1 and 600"),
        (["-ns", "11"], "-ns/--noise_scale is 11; it must lie between 0 and 10"),
        (["--targets", "nowhere"], "--targets nowhere: no such folder"),
        (["--parallel", "nowhere"], "--parallel nowhere: no such folder"),
        (["--second_f0_predictor", "pm"], "--second_f0_predictor is pm, as is -f0p; name another one"),
        (["--second_f0_predictor", "nope"], "unknown f0 predictor 'nope'"),
        (["--whisper", "songs"], r"faster-whisper is not installed: pip install faster-whisper"),
        (["--language", "en"], r"faster-whisper is not installed: pip install faster-whisper"),
        (["-t", "100"], "-t/--trans is 100; it must lie between -60 and 60"),
        (["-s", "bass"], "no speaker 'bass'. It has: alto, tenor"),
    ],
)
def test_wrong_requests_are_refused_with_what_is_right(voice, flags, message):
    with pytest.raises(UsageError, match=message):
        run(*flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--whisper", "songs"],
            r"^songs: is no folder of a Whisper model for CTranslate2: no model\.bin, .*Get one with",
        ),
        (["--language", "en"], r"no Whisper model in pretrain/faster-whisper/\. Get one with"),
        (["--language", "xx", "--whisper", "tiny"], "--language xx: the model in tiny has no such language"),
    ],
)
def test_words_that_were_asked_for_are_not_left_out_silently(voice, monkeypatch, flags, message):
    install_whisper(monkeypatch)
    make_whisper_folder(Path("tiny"))
    with pytest.raises(UsageError, match=message):
        run(*flags)


def test_a_key_is_a_number_or_a_word(voice, capsys):
    with pytest.raises(SystemExit):
        run("-t", "high")
    assert "'high' is not a whole number" in capsys.readouterr().err


def test_without_a_model_the_newest_is_taken(voice):
    with pytest.raises(UsageError, match=r"no G_\*\.pth in logs/44k/"):
        evaluate.main(["-i", "songs"])
    Path("logs/44k").mkdir(parents=True)
    for step in (8, 100):
        Path(f"logs/44k/G_{step}.pth").touch()
    assert evaluate.main(["-i", "songs", "-d", "cpu", "-c", "v/config.json", "-s", "tenor", "tenor"]) == 0
    assert voice.requests[0].model_path == Path("logs/44k/G_100.pth") and voice.requests[0].device == "cpu"
    assert len(table()) == 2 and all(math.isfinite(float(row["f0_correlation"])) for row in table())


@pytest.fixture
def sung_scale(voice, monkeypatch):
    """A measurement that is made without singing: the tenor has no range."""
    known = VoiceRange((41, 81), (45, 76), "2026-12-01", ("fcpe", "pm"), "take.wav")
    found = {"alto": Measured(known, (), "take.wav"), "tenor": Measured(None, (), BUILT_IN)}
    asked = []

    def measure(pipeline, speakers, folder, predictors):
        asked.append((list(speakers), folder))
        return {name: found[name] for name in speakers}

    monkeypatch.setattr("modules.evaluation.ranges.measure_ranges", measure)
    monkeypatch.setattr(f0_predictors, "build_predictor", lambda name, audio, device, f0_max=0: LoudnessPredictor())
    save_weights(Path("v/G_1.pth"), {"model": {"x": torch.zeros(3)}})
    return asked


def test_a_range_needs_no_recordings_and_changes_no_card_unless_asked(sung_scale, capsys):
    before = Path("v/G_1.pth").read_bytes()
    assert evaluate.main(["-m", "v/G_1.pth", "--range", "-s", "tenor", "alto"]) == 0
    printed = capsys.readouterr().out
    assert "alto: comfortable A2-E5, sings F2-A5 (measured 2026-12-01 by fcpe, pm), sung on take.wav" in printed
    assert "tenor: sings no note of the scale rightly, sung on synthesized vowels" in printed
    assert folder_listing(OUT) == {"range.json"} and Path("v/G_1.pth").read_bytes() == before
    assert sung_scale == [(["tenor", "alto"], Path("dataset/44k"))]
    with pytest.raises(UsageError, match=r"holds range\.json already"):
        evaluate.main(["-m", "v/G_1.pth", "--range"])


def test_a_range_goes_into_the_card_and_into_the_report_with_recordings(sung_scale):
    assert run("--range", "--card", "-s", "alto") == 0
    assert read_card("v/G_1.pth")["ranges"]["alto"]["sings"] == [41, 81]
    assert "range of alto" in (OUT / "report.html").read_text("utf-8") and (OUT / "range.json").is_file()


@pytest.mark.parametrize(
    "flags, said",
    [
        ([], r"-i/--input.*or --range"),
        (["-i", "songs", "--card"], "--card .* add --range"),
        (["--range", "--card", "-m", "v/G.onnx"], r"only the card of a \.pth"),
    ],
)
def test_half_a_request_for_a_range_is_refused(voice, flags, said):
    Path("v/G.onnx").touch()
    with pytest.raises(UserError, match=said):
        evaluate.main(["-m", "v/G_1.pth", *flags])
