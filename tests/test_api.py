"""The Python API: the command line's sound and defaults, arrays in and out, and a page whose examples run."""

import argparse
import inspect
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from inference.fake_voice import fake_converter, silence, sung
from signals import sung as sung_at
from tiny_voices import tiny_config

import assemble
import inference_main
from cluster.kmeans import save_centres
from models import build_synthesizer
from modules.config.io import save_config
from modules.config.schema import Config
from modules.errors import AudioError, CheckpointError, UsageError, UserError
from modules.f0.histogram import PitchHistogram
from modules.inference.keyword_options import CONVERTED, LOADED
from modules.inference.loaded_voice import LoadedVoice
from modules.weights.checkpoint import save_weights

MODEL, CONFIG = "logs/44k/G_8000.pth", "logs/44k/config.json"
PAGE = Path(__file__).resolve().parent.parent / "docs/api.md"
# Parameters of the API's functions, the command line's own, and so-vits-svc 4.0's word for -f0p crepe.
ELSEWHERE = {"help", "model_path", "spk_list", "mix", "trans", "wav_format", "overwrite"}
ELSEWHERE |= {"clean_names", "resume", "json", "f0_mean_pooling"}
FLAGS = {action.dest: action for action in inference_main.make_arguments()._actions if action.help != argparse.SUPPRESS}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`load_voice` of a voice of two speakers whose networks are stand-ins, where there is a song of 13 seconds."""
    monkeypatch.chdir(tmp_path)
    save_config(Config(spk={"alto": 0, "tenor": 1}), CONFIG)
    Path(MODEL).touch()
    soundfile.write("song.wav", np.concatenate([sung(6, 22050), silence(1, 22050), sung(6, 22050, 1)]), 22050)
    made = []

    def load_converter(request):
        made.append(request)
        notes = PitchHistogram.from_curve(np.full(500, 300.0), np.ones(500)).to_plain()
        return fake_converter(card={"f0_histograms": {"alto": notes}})[0]

    monkeypatch.setattr(assemble, "load_converter", load_converter)
    monkeypatch.setattr(assemble, "made", made, raising=False)
    return assemble.load_voice


def request_of(voice: LoadedVoice, monkeypatch, **options):
    """What the converter is asked for."""
    found = []
    stream = voice.converter.stream
    monkeypatch.setattr(voice.converter, "stream", lambda *args: found.append(args[1]) or stream(*args))
    voice.convert(sung(1, 16000), 16000, **options)
    monkeypatch.setattr(voice.converter, "stream", stream)
    return found[0]


def test_every_flag_has_its_place_in_the_api():
    assert sorted([*LOADED, *CONVERTED, *ELSEWHERE]) == sorted(FLAGS)


def test_the_defaults_are_those_of_the_command_line(load, monkeypatch):
    made = []
    monkeypatch.setattr(inference_main, "require_parts", lambda *names, **named: None)
    monkeypatch.setattr("modules.inference.batch.run_jobs", lambda jobs, *args: made.extend(jobs) or [])
    inference_main.main(["-n", "song.wav", "-s", "alto", "-m", MODEL])
    assert request_of(load(MODEL), monkeypatch, speaker="alto") == made[0].options
    assert assemble.made[0] == assemble.made[1]
    for method in (LoadedVoice.convert, LoadedVoice.stream, LoadedVoice.convert_file):
        assert [inspect.signature(method).parameters["transpose"].default] == FLAGS["trans"].default


def test_the_tables_of_the_page_are_the_flags_with_their_defaults():
    rows = re.findall(r"^\| `(\w+)` \| `(--?\w+)` \| (.+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert [name for name, *_ in rows] == [*LOADED, *CONVERTED]
    for name, flag, default in rows:
        assert flag in FLAGS[name].option_strings
        if FLAGS[name].default:
            wanted = FLAGS[name].default
            assert default == (f'`"{wanted}"`' if isinstance(wanted, str) else f"`{wanted}`")


def test_a_path_an_array_and_its_blocks_give_the_same(load):
    voice = load(MODEL)
    wav, rate = voice.convert("song.wav", speaker="alto")
    assert rate == voice.rate == 16000 and wav.dtype == np.float32 and wav.shape == (13 * 16000,)
    song, song_rate = soundfile.read("song.wav", dtype="int16")
    other, _ = voice.convert(song, song_rate, speaker="alto")
    blocks = list(voice.stream(Path("song.wav"), speaker="alto"))
    assert len(blocks) >= 2 and np.array_equal(np.concatenate(blocks), wav) and np.array_equal(other, wav)


@pytest.mark.parametrize("levels", [(1, 0.5), (0, 1), (1, 1, 0)])
@pytest.mark.parametrize("turned", [False, True])
def test_channels_of_an_array_become_one_as_those_of_a_file(load, levels, turned):
    voice, song = load(MODEL), sung(1, 16000)[:, None] * np.array(levels, np.float32)
    soundfile.write("wide.wav", song, 16000, "FLOAT")
    wanted, _ = voice.convert("wide.wav", speaker="alto")
    warnings = [text.removeprefix("wide.wav: ") for text in voice.report.warnings]
    found, _ = voice.convert(song.T if turned else song, 16000, speaker="alto")
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert [text.removeprefix("audio: ") for text in voice.report.warnings] == warnings


def test_a_stream_holds_a_few_blocks_of_a_song_not_all(load):
    """Of ten minutes no more is sung than the first block needs; what is wrong is said before it."""
    voice = load(MODEL)
    with soundfile.SoundFile("long.wav", "w", 8000, 1) as file:
        for _ in range(10):
            file.write(sung(60, 8000))
    seen = []
    stream = voice.stream("long.wav", speaker="alto", on_progress=lambda *seconds: seen.append(seconds))
    assert not seen
    next(stream)
    stream.close()
    assert len(seen) == 1 and seen[0][0] <= 30 and seen[0][1] == 600
    with pytest.raises(UsageError, match="soprano"):
        voice.stream("long.wav", speaker="soprano")


def test_progress_ends_at_the_whole_song(load, capfd):
    voice, seen = load(MODEL), []
    voice.convert("song.wav", speaker="alto", on_progress=lambda *seconds: seen.append(seconds))
    direct = len(seen)
    voice.convert_file("song.wav", "a/b.flac", speaker="alto", on_progress=lambda *seconds: seen.append(seconds))
    assert seen[:direct] == seen[direct:] and seen[-1] == (13, 13) and seen == sorted(seen[:direct]) * 2
    assert capfd.readouterr() == ("", "")


def test_a_report_has_the_warnings_and_nothing_is_printed(load, monkeypatch, capfd):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # a program that has set up no logging
    for package in ("modules", "assemble"):
        monkeypatch.setattr(logging.getLogger(package), "handlers", [])
    voice = load(MODEL)
    assert voice.report is None
    voice.convert(silence(2, 16000), 16000, speaker="alto")
    assert "the song is silent" in voice.report.warnings[0] and voice.report.seconds == 2
    assert capfd.readouterr() == ("", "")


def test_options_of_a_song_may_be_given_to_the_voice(load, monkeypatch):
    voice = load(MODEL, noise_scale=0.1, clip=5, precision="fp32", cluster_model_path=Path("x"), device=None)
    first = request_of(voice, monkeypatch, speaker="alto", clip=np.float32(3))
    second = request_of(voice, monkeypatch, speaker="tenor", transpose=np.int64(-12))
    assert (first.noise_scale, first.clip_seconds, second.clip_seconds) == (0.1, 3, 5)
    assert (second.speaker, second.transpose, type(second.transpose)) == ("tenor", -12, int)
    assert assemble.made[0].precision == "fp32"


def test_shares_mix_voices_and_auto_chooses_a_key(load, monkeypatch):
    voice = load(MODEL)
    mix = request_of(voice, monkeypatch, speaker={"alto": 0.75, "tenor": 0.25}, cluster_infer_ratio=0.5).mix
    assert [track.segments[0][2] for track in mix.tracks] == [0.75, 0.25]
    Path("mix.json").write_text('{"tenor": [[0, 1, 1, 1]]}')
    assert request_of(voice, monkeypatch, mix_path="mix.json").mix.tracks[0].speaker == 1
    # The stand-in hears 200 Hz everywhere, and the voice was trained on 300 Hz.
    assert request_of(voice, monkeypatch, speaker="alto", transpose="auto").transpose == 7
    assert request_of(voice, monkeypatch, speaker="alto", transpose="auto-octave").transpose == 12


def test_centres_are_read_for_the_speakers_that_need_them(load):
    voice = load(MODEL)
    save_centres("logs/44k/kmeans_10000.pt", {"alto": np.full((1, 2), 0.5, np.float32)})
    plain, half, full = (voice.convert("song.wav", speaker="alto", cluster_infer_ratio=x)[0] for x in (0, 0.5, 1))
    assert full[8000:80000] == pytest.approx(0.5)
    np.testing.assert_allclose(half[8000:80000], (plain + full)[8000:80000] / 2, atol=1e-6)
    with pytest.raises(CheckpointError, match="tenor"):
        voice.convert("song.wav", speaker="tenor", cluster_infer_ratio=0.5)
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such file"):
        voice.convert("song.wav", speaker="alto", cluster_infer_ratio=0.5, cluster_model_path="gone.pt")


def test_no_file_is_replaced_unasked_and_never_the_source(load):
    voice = load(MODEL)
    Path("there.wav").write_text("mine")
    for result, overwrite in (("there.wav", False), ("song.wav", False), ("./song.wav", True)):
        with pytest.raises(UsageError, match="already exists"):
            voice.convert_file("song.wav", result, speaker="alto", overwrite=overwrite)
    assert voice.convert_file("song.wav", "there.wav", speaker="alto", overwrite=True).seconds == 13
    assert soundfile.info("there.wav").format == "WAV" and voice.report.seconds == 13
    with pytest.raises(UsageError, match="unknown output format 'xyz'"):
        voice.convert_file("song.wav", "a.xyz", speaker="alto")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_scal": 0.2}, "unknown option of convert 'noise_scal'. Did you mean noise_scale. Known: .*slice_db"),
        ({"trans": 3}, "unknown option of convert 'trans'"),
        ({"f0_predictor": "crepe"}, "f0_predictor is an option of load_voice"),
        ({"noise_scale": "much"}, "noise_scale is 'much'; expected a number"),
        ({"enhancer_adaptive_key": 1.5}, "enhancer_adaptive_key is 1.5; expected a whole number"),
        ({"auto_predict_f0": "no"}, "auto_predict_f0 is 'no'; expected True or False"),
        ({"slice_db": 40}, "slice_db is 40"),
        ({"auto_predict_f0": True, "speaker": {}}, "--mix is empty"),
        ({"speaker": None}, "name the target voice"),
        ({"speaker": 3}, "no speaker 3"),
        ({"speaker": "alto", "mix_path": "x.json"}, "leave speaker out"),
        ({"transpose": "up"}, "transpose is 'up'; expected semitones, 'auto'"),
        ({"transpose": None}, "transpose is None"),
        ({"transpose": float("nan")}, "-t/--trans is nan"),
        ({"transpose": "auto", "speaker": "tenor"}, "which notes 'tenor'"),
        ({"transpose": "auto", "speaker": {"tenor": 1}}, "one target voice"),
        ({"source": "gone.wav"}, r"gone\.wav: no such file"),
        ({"rate": 44100}, "rate is for arrays"),
        ({"source": np.zeros(100)}, "rate is None"),
        ({"source": np.zeros(0), "rate": 44100}, "not empty"),
        ({"source": np.zeros((50, 100)), "rate": 44100}, r"shape \(50, 100\)"),
        ({"source": np.array(["x"]), "rate": 44100}, "array of <U1"),
        ({"source": np.full(100, np.nan), "rate": 44100}, "not a finite number"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(load, options, message):
    voice = load(MODEL)
    with pytest.raises(UserError, match=message) as error:
        voice.convert(**{"source": "song.wav", "speaker": "alto", **options})
    assert "\n" not in str(error.value)


def test_mistakes_of_loading_are_named_at_once(load):
    for options, message in (
        ({"speaker": "alto"}, "unknown option of load_voice 'speaker'.*Known: config_path"),
        ({"precision": "fp8"}, "precision is 'fp8'; expected one of: auto, fp32"),
        ({"device": "abacus", "noise_scale": -1, "config_path": "gone.json"}, r"-ns/.*'abacus'.*gone\.json"),
    ):
        with pytest.raises(UserError, match=message):
            load(MODEL, **options)
    with pytest.raises(CheckpointError, match=r"G_7\.pth: no such file\. There: logs/44k/G_8000\.pth"):
        load("logs/44k/G_7.pth")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A small real voice of two speakers, whose card has the notes of one, and a song."""

    class FakeEncoder:
        name, dim, sampling_rate, hop_length = "vec256l9", 256, 16000, 320

        def encode(self, wav: np.ndarray) -> torch.Tensor:
            return torch.zeros(256, max(1, len(wav) // 320))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assemble, "build_encoder", lambda *_: FakeEncoder())
    monkeypatch.setattr(inference_main, "require_parts", lambda *names, **named: None)
    config = tiny_config({"ssl_dim": 256, "speech_encoder": "vec256l9"})
    config.spk = {"alto": 0, "tenor": 1}
    save_config(config, CONFIG)
    notes = PitchHistogram.from_curve(np.full(500, 220.0), np.ones(500)).to_plain()
    card = {"name": "small", "f0_histograms": {"tenor": notes}}
    save_weights(MODEL, {"model": build_synthesizer(config).state_dict(), "card": card})
    soundfile.write("song.wav", sung_at(np.full(22050, 220.0), 44100), 44100)


def test_a_file_is_the_one_that_the_command_line_writes(workspace):
    assert inference_main.main(["-n", "song.wav", "-s", "alto", "-t", "3", "-m", MODEL, "-d", "cpu"]) == 0
    voice = assemble.load_voice(device="cpu")  # the newest there is
    voice.convert_file("song.wav", "mine.flac", speaker="alto", transpose=3)
    (theirs,) = Path("results").glob("*.flac")
    assert Path("mine.flac").read_bytes() == theirs.read_bytes()
    wav, rate = voice.convert("song.wav", speaker="alto", transpose=3)
    # 16 bits: rounded to n / 32767, and read as n / 32768.
    assert np.abs(wav - soundfile.read(theirs)[0]).max() <= 1.51 / 32768 and rate == 44100


def test_the_examples_of_the_page_run_as_they_stand(workspace, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    names = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    printed = capsys.readouterr().out
    assert len(blocks) == 7 and "0.5 of 0.5 s" in printed
    (promised,) = re.findall(r"print\(error\)  # (.*)", "".join(blocks))
    assert promised in printed
    assert soundfile.info("long.flac").frames == soundfile.info("results/alto.flac").frames == 22050
    assert len(names["wav"]) == len(soundfile.read("alto.wav")[0]) == 22050


def test_errors_keep_what_they_are(load):
    """An error while a song is converted is the converter's own, and the voice goes on with the next song."""
    voice = load(MODEL)
    voice.converter.pipeline.synthesizer.fails_at_call = 1
    with pytest.raises(AudioError, match="not enough memory"):
        voice.convert("song.wav", speaker="alto")
    assert len(voice.convert("song.wav", speaker="alto")[0]) == 13 * 16000
