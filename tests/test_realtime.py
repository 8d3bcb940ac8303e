"""realtime.py: files in place of a sound card, and one line for every mistake; networks and devices are stand-ins."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_sound_card import FakeSoundCard
from inference.fake_voice import AUDIO, fake_converter, sung

import assemble
import realtime
from modules.config.io import save_config
from modules.config.schema import Config
from modules.errors import UserError
from modules.realtime import live
from modules.realtime.arguments import as_conversion

RATE = AUDIO.sampling_rate
FLAGS = "--from song.wav --to out.wav --block 0.2 --crossfade 0.04 --extra 0.3 -s tenor".split()


@pytest.fixture
def requests(tmp_path, monkeypatch):
    """A workspace with a song and a voice of two speakers; gives the requests that were made."""
    made = []

    def load(request):
        made.append(request)
        return fake_converter()[0]

    monkeypatch.chdir(tmp_path)
    soundfile.write("song.wav", sung(1.3, RATE)[:20123], RATE, subtype="FLOAT")
    save_config(Config(spk={"alto": 0, "tenor": 1}), "logs/44k/config.json")
    Path("logs/44k/G_1.pth").touch()
    monkeypatch.setattr(assemble, "load_converter", load)
    monkeypatch.setattr(realtime, "require_parts", lambda *names, **named: None)
    return made


def run(*changes: str) -> int:
    return realtime.main([*FLAGS, *changes])


def test_the_result_is_as_long_as_the_song_and_in_step_with_it(requests, capsys):
    assert run("--overwrite", "-t", "3", "-f0p", "dio") == 0
    wav, rate = soundfile.read("out.wav")
    song = soundfile.read("song.wav")[0]
    level = np.sqrt(np.convolve(song**2, np.ones(320) / 320, "same"))
    assert (len(wav), rate) == (20123, RATE)
    np.testing.assert_allclose(wav[1500:-1500], level[1500:-1500], atol=0.02)
    assert requests[0].model_path == Path("logs/44k/G_1.pth") and requests[0].f0_predictor == "dio"
    said = capsys.readouterr().out
    assert "blocks of 200 ms: p50" in said and "0 missed" in said and "end-to-end latency" in said
    assert "Next: python compare.py song.wav out.wav" in said


@pytest.mark.parametrize(("name", "block"), [("out.flac", "0.2"), ("other.wav", "0.05")])  # also below the delay
def test_bypass_gives_the_song_back_sample_by_sample(requests, name, block, caplog):
    assert run("--bypass", "--to", name, "--block", block, "--device_in", "headset") == 0
    wav, song = soundfile.read(name)[0], soundfile.read("song.wav")[0]
    assert len(wav) == len(song) == 20123
    np.testing.assert_allclose(wav[800:], song[800:], atol=1e-4)
    assert "--device_in and --device_out have no effect" in caplog.text


def test_a_song_shorter_than_a_block_is_converted_whole(requests):
    soundfile.write("song.wav", sung(0.01, RATE), RATE)
    assert run() == 0
    assert soundfile.info("out.wav").frames == round(0.01 * RATE)


@pytest.mark.parametrize("rate", [44100, 22050, 11025])
def test_a_song_of_another_rate_keeps_its_length_to_a_sample(requests, rate):
    song = sung(0.7, rate)[: int(0.7 * rate) - 17]
    soundfile.write("song.wav", song, rate)
    assert run("--bypass") == 0
    assert soundfile.info("out.wav").frames == -(-len(song) * RATE // rate)


def test_a_song_below_the_gate_is_warned_about(requests, caplog):
    soundfile.write("song.wav", 1e-3 * sung(1.0, RATE), RATE, subtype="FLOAT")
    assert run("--gate", "-40") == 0
    assert not soundfile.read("out.wav")[0].any()
    assert "song.wav: nothing in it is as loud as --gate -40 dB" in caplog.text


def test_paced_blocks_come_no_quicker_than_they_are_sung(requests, capsys, monkeypatch):
    slept = []
    monkeypatch.setattr("modules.realtime.files.time.sleep", slept.append)
    assert run("--paced") == 0
    assert 7 <= len(slept) <= 9 and slept[-1] > 1.0, "the last one is due after all that was sung"


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--to", "song.wav"], "--to song.wav: is the input song.wav, and inputs are never overwritten"),
        (["--to", "there.wav"], "--to there.wav: already exists; use another name, or add --overwrite"),
        (["--to", "out.mp3"], "expected a name that ends in .wav or .flac"),
        (["--from", "gone.wav"], "gone.wav: no such file"),
        (["--from", "empty.wav"], "empty.wav: is empty"),
        (["-s", "bass"], "the model has no speaker 'bass'. It has: alto, tenor"),
        (["--block", "9", "-m", "gone.pth"], r"(1) --block is 9; it must lie between 0.05 and 5 (2) -m/--model_path"),
        (["-t", "99"], "-t/--trans is 99"),
    ],
)
def test_a_mistake_is_named_before_anything_is_loaded(requests, flags, text):
    Path("empty.wav").touch()
    Path("there.wav").write_text("mine")
    with pytest.raises(UserError) as error:
        run(*flags)
    assert text in str(error.value) and not requests
    assert Path("there.wav").read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ("--from song.wav", "--from and --to belong together"),
        ("--paced", "--paced needs --from and --to"),
        ("--device_in guitar", "--device_in guitar: no microphone is called so. There are: 0 Mikrofon"),
    ],
)
def test_flags_of_files_and_devices_are_checked_beforehand(requests, monkeypatch, flags, text):
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSoundCard())
    with pytest.raises(UserError, match=text):
        realtime.main(["-s", "alto", *flags.split()])
    assert not requests


def test_devices_are_listed_without_a_voice(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSoundCard())
    assert realtime.main(["--list_devices"]) == 0
    assert "*   0  Mikrofon (Übung)" in capsys.readouterr().out


def test_ctrl_c_ends_the_stream_with_a_summary(requests, monkeypatch, capsys):
    card = FakeSoundCard((48000,))
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    monkeypatch.setattr(live.SampleQueue, "wait", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert realtime.main([*FLAGS[4:], "--device_in", "headset"]) == 0
    assert "no block was converted" in capsys.readouterr().out
    assert [stream.device for stream in card.streams] == [3, 2] and all(one.is_closed for one in card.streams)


def test_flags_that_only_songs_have_are_as_by_default():
    args = as_conversion(realtime.make_arguments().parse_args(["-s", "alto", "-t", "5"]))
    assert args.spk_list == ["alto"] and args.trans == [5] and args.loudness_envelope_adjustment == 1
    assert not args.shallow_diffusion and not args.use_spk_mix and args.f0_predictor == "fcpe"
