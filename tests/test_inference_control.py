"""Timbre control and batches from the command line: mixes, retrieval, automatic keys, JSON, going on after a stop."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from inference.fake_voice import FakePredictor, fake_converter, silence, sung

import assemble
import inference_main
from modules.config.io import save_config
from modules.config.schema import Config
from modules.data.pitch import FILE_NAME
from modules.errors import AudioError, UsageError
from modules.f0.histogram import PitchHistogram
from modules.inference.requests import choose_retrieval
from modules.inference.results import JOURNAL
from modules.inference.stream import Song


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace with an album of two songs, the second in stereo."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw" / "album").mkdir(parents=True)
    song = np.concatenate([sung(6, 16000), silence(1, 16000), sung(6, 16000, 1)])
    soundfile.write(tmp_path / "raw" / "album" / "one.wav", song, 16000)
    soundfile.write(tmp_path / "raw" / "album" / "two.flac", np.stack([song[:32000]] * 2, 1), 16000)
    return tmp_path


@pytest.fixture
def voice(workspace, monkeypatch):
    """Conversion with stand-in networks in two voices; `voice.requests` are those made."""

    class Voice:
        def __init__(self):
            self.requests, self.changes = [], {}
            self.converter, self.synthesizer, self.calls = fake_converter()

        def load(self, request):
            self.requests.append(request)
            self.converter, self.synthesizer, self.calls = fake_converter(**self.changes)
            self.synthesizer.fails_at_call = getattr(self, "fails_at_call", None)
            return self.converter

    made = Voice()
    save_config(Config(spk={"alto": 0, "tenor": 1}), "logs/44k/config.json")
    Path("logs/44k/G_1.pth").touch()
    monkeypatch.setattr(assemble, "load_converter", made.load)
    monkeypatch.setattr(inference_main, "require_parts", lambda *names, **named: None)
    return made


def results() -> set[str]:
    return {path.relative_to("results").as_posix() for path in Path("results").rglob("[!.]*.*")}


def test_a_folder_is_mirrored_and_stereo_is_said_once(workspace, voice, caplog):
    soundfile.write("raw/album/three.wav", np.zeros((16000, 2)), 16000)
    caplog.set_level("INFO")
    assert inference_main.main(["-n", "album", "-s", "alto"]) == 0
    ending = "_0key_alto_sovits_pm.flac"
    assert results() == {f"album/{name}{ending}" for name in ("one.wav", "two.flac", "three.wav")}
    assert caplog.text.count("channels become one") == 1


def test_json_has_one_line_for_each_finished_file_and_nothing_else_on_stdout(workspace, voice, capsys):
    Path("raw/album/broken.wav").write_bytes(b"RIFFnothing")
    assert inference_main.main(["-n", "album", "-s", "alto", "tenor", "-t", "12", "--json"]) == 1
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [(line["source"], line["speaker"]) for line in lines] == [
        (f"raw/album/{name}", speaker) for name in ("one.wav", "two.flac") for speaker in ("alto", "tenor")
    ]
    first = lines[0]
    assert first["result"] == "results/album/one.wav_12key_alto_sovits_pm.flac" and Path(first["result"]).is_file()
    assert first["seconds"] == 13 and 11 < first["voiced_seconds"] <= 13 and first["realtime_factor"] > 0
    assert first["f0_range_hz"] == [400, 400] and first["warnings"] == [] and not first["already_there"]
    assert "broken.wav" in printed.err and "2 of 6 conversions failed" in printed.err


def test_retrieval_shows_in_the_name_and_reaches_the_voice(workspace, voice):
    blended = []

    class Retriever:
        def blend(self, units, speaker, ratio):
            blended.append((units.shape[1], speaker, ratio))
            return units * 0

    voice.changes["retriever"] = Retriever()
    Path("k.pt").write_bytes(b"centres")
    assert inference_main.main(["-n", "album/two.flac", "-s", "tenor", "-cr", "0.5", "-cm", "k.pt"]) == 0
    assert results() == {"album/two.flac_0key_tenor_0.5_sovits_pm.flac"}
    assert blended == [(300, "tenor", 0.5)]
    request = voice.requests[0].retrieval
    assert (request.path, request.is_index, request.speakers) == (Path("k.pt"), False, ("tenor",))
    assert not soundfile.read("results/album/two.flac_0key_tenor_0.5_sovits_pm.flac")[0].any()


@pytest.mark.parametrize(
    ("flags", "there", "expected"),
    [
        ([], [], "logs/44k/kmeans_10000.pt"),
        (["-fr"], [], "logs/44k/feature_and_index.json"),
        (["-fr"], ["logs/44k/feature_and_index.pkl"], "logs/44k/feature_and_index.pkl"),
        (["-fr"], ["logs/44k/feature_and_index.pkl", "v/feature_and_index.json"], "v/feature_and_index.json"),
        ([], ["logs/44k/kmeans_10000.pt", "v/kmeans_10000.pt"], "v/kmeans_10000.pt"),
    ],
)
def test_centres_and_indexes_have_their_usual_places(workspace, voice, flags, there, expected):
    for path in there:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    args = inference_main.make_arguments().parse_args([*flags, "-cr", "0.3"])
    assert choose_retrieval(args, Path("v/G_1.pth")).as_posix() == expected


def test_a_missing_file_of_centres_is_named_with_its_command(workspace, monkeypatch):
    from cluster import load_retriever
    from modules.errors import UserError

    with pytest.raises(UserError, match=r"kmeans_10000\.pt.*python cluster/train_cluster\.py"):
        load_retriever(Path("logs/44k/kmeans_10000.pt"), {"alto": 0}, 6, False)
    with pytest.raises(UserError, match=r"feature_and_index\.json.*python train_index\.py"):
        load_retriever(Path("logs/44k/feature_and_index.json"), {"alto": 0}, 6, True)


def test_a_mix_gives_weights_at_the_places_of_the_song(workspace, voice):
    Path("configs").mkdir()
    tracks = {"alto": [[0, 0.5, 1, 1], [0.5, 1, 0, 0]], "tenor": [[0, 0.5, 0, 0], [0.5, 1, 1, 1]]}
    Path("configs/spkmix.json").write_text(json.dumps(tracks))
    assert inference_main.main(["-n", "album/one.wav", "-usm"]) == 0
    assert results() == {"album/one.wav_0key_spk_mix_sovits_pm.flac"}
    first, second = (seen["speaker"] for seen in voice.synthesizer.seen)
    assert first.shape[0] == 2 and torch.equal(first.sum(0), torch.ones(first.shape[1]))
    middle = round((6.5 + 0.5) * 100)  # frames of 10 ms; the first segment starts half a second before the song
    assert first[0][:middle].min() == 1 and first[1][middle:].min() == 1
    assert second[1][100:].min() == 1


def test_a_constant_mix_and_upstreams_file_work_too(workspace, voice):
    assert inference_main.main(["-n", "album/two.flac", "--mix", "alto=1", "tenor=3"]) == 0
    weights = voice.synthesizer.seen[0]["speaker"]
    assert torch.allclose(weights, torch.tensor([[0.25], [0.75]]).expand_as(weights))
    Path("spkmix.py").write_text("open('ran', 'w')\nspk_mix_map = {0: [[0., 1., 1, 1]], 1: [[0., 1., 0, 0]]}\n")
    assert inference_main.main(["-n", "album/two.flac", "-usm", "-cr", "0.5"]) == 0
    assert voice.synthesizer.seen[0]["speaker"][0].min() == 1
    assert not Path("ran").exists()


def write_voice_notes(hz: float) -> None:
    Path("dataset/44k").mkdir(parents=True)
    notes = PitchHistogram.from_curve(np.full(500, hz), np.ones(500))
    Path("dataset/44k", FILE_NAME).write_text(json.dumps({"alto": notes.to_plain()}))
    torch.save({"model": {}}, "G_1.pth")


@pytest.mark.parametrize(("key", "hz", "expected"), [("auto", 300, 7), ("auto-octave", 300, 12), ("auto", 200, 0)])
def test_a_key_is_chosen_from_the_voices_notes(workspace, voice, caplog, key, hz, expected):
    """The stand-in hears 200 Hz everywhere; 300 Hz is seven semitones above."""
    write_voice_notes(hz)
    caplog.set_level("INFO")
    assert inference_main.main(["-n", "album/one.wav", "-s", "alto", "-t", key, "-m", "logs/44k/G_1.pth"]) == 0
    assert results() == {f"album/one.wav_{expected}key_alto_sovits_pm.flac"}
    assert f"transposed by {expected:+d}" in caplog.text


def test_notes_outside_the_voice_are_warned_about_also_in_json(workspace, voice, capsys):
    write_voice_notes(270)
    assert (
        inference_main.main(
            ["-n", "album/one.wav", "-s", "alto", "-t", "auto-octave", "-m", "logs/44k/G_1.pth", "--json"]
        )
        == 0
    )
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert "outside the voice's range" in warning


def test_a_voice_without_known_notes_is_refused_with_the_way_out(workspace, voice):
    write_voice_notes(300)
    with pytest.raises(UsageError, match=r"'tenor'.*-t 0.*preprocess_hubert_f0"):
        inference_main.main(["-n", "album", "-s", "tenor", "-t", "auto", "-m", "logs/44k/G_1.pth"])
    with pytest.raises(UsageError, match="one target voice"):
        inference_main.main(["-n", "album", "--mix", "alto=1", "-t", "auto", "-m", "logs/44k/G_1.pth"])


def test_a_wrong_key_ends_with_code_two(workspace, capsys):
    with pytest.raises(SystemExit, match="2"):
        inference_main.main(["-t", "high"])
    assert "whole number, auto or auto-octave" in capsys.readouterr().err


def test_a_stopped_batch_goes_on_with_resume(workspace, voice, capsys):
    """The third segment fails: of the first song both are sung, of the copy one."""
    soundfile.write("raw/album/copy.wav", soundfile.read("raw/album/one.wav")[0], 16000)
    command = ["-n", "album/one.wav", "album/copy.wav", "-s", "alto"]
    assert inference_main.main(command) == 0
    whole = Path("results/album/copy.wav_0key_alto_sovits_pm.flac").read_bytes()
    for path in Path("results/album").iterdir():
        path.unlink()
    voice.fails_at_call = 4
    assert inference_main.main(command) == 1
    assert "--resume" in capsys.readouterr().err
    voice.fails_at_call = None
    assert inference_main.main([*command, "--resume", "--json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["already_there"] and not second["already_there"] and second["resumed_seconds"] > 5
    assert len(voice.synthesizer.seen) == 1, "only the segment that was missing"
    assert Path("results/album/copy.wav_0key_alto_sovits_pm.flac").read_bytes() == whole
    assert {path.name for path in Path("results/album").glob(".*")} == {JOURNAL}


@pytest.mark.parametrize("change", [["-ns", "0.1"], ["-sd", "-45"]])
def test_resume_does_not_take_another_requests_result_for_this_one(workspace, voice, change):
    command = ["-n", "album/two.flac", "-s", "alto"]
    assert inference_main.main(command) == 0
    assert inference_main.main([*command, "--resume"]) == 0
    assert not voice.synthesizer.seen
    assert inference_main.main([*command, *change, "--resume"]) == 0
    assert voice.synthesizer.seen
    soundfile.write("raw/album/two.flac", sung(3, 16000), 16000)
    assert inference_main.main([*command, *change, "--resume"]) == 0
    assert voice.synthesizer.seen, "the source has changed"


def test_without_resume_everything_is_made_again(workspace, voice):
    command = ["-n", "album/two.flac", "-s", "alto"]
    for _ in range(2):
        assert inference_main.main(command) == 0
        assert voice.synthesizer.seen


def test_a_source_that_cannot_be_read_does_not_end_the_batch(workspace, voice, caplog):
    write_voice_notes(300)
    Path("raw/album/broken.wav").write_bytes(b"RIFFnothing")
    assert inference_main.main(["-n", "album", "-s", "alto", "-t", "auto", "-m", "logs/44k/G_1.pth"]) == 1
    assert len(results()) == 2 and "broken.wav" in caplog.text
    with pytest.raises(AudioError, match=r"broken\.wav"):
        inference_main.main(["-n", "album/broken.wav", "-s", "alto", "-t", "auto", "-m", "logs/44k/G_1.pth"])


def test_a_long_song_is_sampled_in_parts(workspace, voice):
    from modules.inference.auto_transpose import LISTEN_SECONDS, song_histogram

    minute = sung(60, 8000)
    with soundfile.SoundFile("raw/long.flac", "w", 8000, 1) as file:
        for _ in range(10):
            file.write(minute)
    calls = []
    converter, _, _ = fake_converter(predictor=FakePredictor(calls))
    histogram = song_histogram(Song.from_file(Path("raw/long.flac"), 16000), converter.pipeline, -40)
    heard = sum(length for _, length in calls) / 16000
    assert 0.8 * LISTEN_SECONDS <= heard <= 1.1 * LISTEN_SECONDS
    assert 440 * 2 ** ((histogram.median - 69) / 12) == pytest.approx(200, rel=0.02)


def test_a_song_carries_the_card_of_its_voice_unless_it_shall_not(workspace, voice):
    voice.changes = {"card": {"name": "44k", "licence": "CC BY 4.0", "speakers": ["alto", "tenor"]}}
    assert inference_main.main(["-n", "album/one", "-s", "alto", "-t", "3"]) == 0
    (path,) = Path("results").rglob("one*.flac")
    with soundfile.SoundFile(path) as song:
        tags, with_metadata = song.copy_metadata(), song.read()
    about = json.loads(tags["comment"])
    assert tags["title"] == "one" and tags["license"] == "CC BY 4.0" and "alto" in tags["artist"]
    assert about["voice"]["name"] == "44k" and about["settings"]["transpose"] == 3
    assert inference_main.main(["-n", "album/one", "-s", "alto", "-t", "3", "--no_metadata", "--overwrite"]) == 0
    with soundfile.SoundFile(path) as song:
        assert not {"comment", "title", "artist", "license"} & set(song.copy_metadata())
        assert np.array_equal(song.read(), with_metadata)


def test_ctrl_c_in_a_batch_ends_with_the_command_that_goes_on(workspace, voice, monkeypatch, caplog):
    honest = voice.load

    def load(request):
        converter = honest(request)
        infer = voice.synthesizer.infer

        def stop(*args):
            if len(voice.synthesizer.seen) == 3:
                raise KeyboardInterrupt
            return infer(*args)

        voice.synthesizer.infer = stop
        return converter

    monkeypatch.setattr(assemble, "load_converter", load)
    soundfile.write("raw/album/my take.wav", soundfile.read("raw/album/one.wav")[0], 16000)
    command = ["-n", "album/one", "album/my take.wav", "-s", "alto"]
    with pytest.raises(KeyboardInterrupt):
        inference_main.main(command)
    said = caplog.records[-1].getMessage()
    assert said.endswith("-n album/one 'album/my take.wav' -s alto --resume")
    assert caplog.text.count("--resume") == 1
    monkeypatch.setattr(assemble, "load_converter", honest)
    assert inference_main.main([*command, "--resume"]) == 0
    assert len(voice.synthesizer.seen) == 1, "only the segment that was missing"


def test_one_file_in_two_keys_is_made_twice_and_the_same_request_once(workspace, voice):
    names = ["album/one.wav", "album/one.wav", "album/one.wav", "album"]
    assert inference_main.main(["-n", *names, "-s", "alto", "-t", "0", "12", "12", "3"]) == 0
    ending = "key_alto_sovits_pm.flac"
    assert results() == {
        *(f"album/one.wav_{key}{ending}" for key in (0, 12, 3)),
        f"album/two.flac_3{ending}",
    }


def test_requests_that_differ_in_any_option_keep_their_results(workspace, voice, capsys):
    command = ["-n", "album/two.flac", "-s", "alto"]
    for flags in ([], ["-lea", "0"], ["-ns", "0.1"], ["-lea", "0"], []):
        assert inference_main.main([*command, *flags]) == 0
    ending = "_0key_alto_sovits_pm"
    assert results() == {f"album/two.flac{ending}{number}.flac" for number in ("", "_2", "_3")}
    assert "is of another request and stays" in capsys.readouterr().err
    assert inference_main.main([*command, "-lea", "0.5", "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"] == f"results/album/two.flac{ending}.flac"
    assert len(results()) == 3
