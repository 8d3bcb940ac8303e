"""From a song to a cover: what is mixed, what is made again and what is not, and one line for every mistake."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from inference.fake_voice import fake_converter, sung

import assemble
import cover
import inference_main
from modules.audio.decoding import open_sound
from modules.config.io import save_config
from modules.config.schema import Config
from modules.data.pitch import FILE_NAME
from modules.errors import AudioError, UsageError, UserError
from modules.f0.histogram import PitchHistogram
from modules.inference.results import note_result
from modules.separation import separator as separation
from modules.separation.spec import Member, SeparatorSpec

RATE = 44100
N = 3 * RATE + 11
LEAD = sung(4, RATE)[:N, None] * np.float32([0.8, 0.2])  # on the left
MUSIC = np.random.default_rng(2).uniform(-0.1, 0.1, (N, 2)).astype(np.float32)
STEMS = ["--vocals", "stems/lead vocals.flac", "--music", "stems/müsic.flac"]
FOLDER, COVER = Path("results/song.wav_cover"), Path("results/song.wav_0key_alto_cover.flac")


class Voice:
    """Stand-ins for the networks; `calls` are those of the newest run."""

    def __init__(self) -> None:
        self.changes, self.on_infer = {}, None

    def load(self, request):
        converter, self.synthesizer, self.calls = fake_converter(**self.changes)
        if self.on_infer:
            infer = self.synthesizer.infer
            self.synthesizer.infer = lambda *args, **named: (self.on_infer(self.synthesizer), infer(*args, **named))[1]
        return converter

    @property
    def n_inferred(self) -> int:
        return len(self.synthesizer.seen)


@pytest.fixture
def voice(tmp_path, monkeypatch):
    """A workspace with a song and its stems, and a voice of two speakers."""
    monkeypatch.chdir(tmp_path)
    for name, wav in (("raw/song.wav", LEAD + MUSIC), (STEMS[1], LEAD), (STEMS[3], MUSIC)):
        Path(name).parent.mkdir(exist_ok=True)
        soundfile.write(name, wav, RATE, subtype="PCM_24")
    save_config(Config(spk={"alto": 0, "tenor": 1}), "logs/44k/config.json")
    Path("logs/44k/G_1.pth").touch()
    made = Voice()
    monkeypatch.setattr(assemble, "load_converter", made.load)
    monkeypatch.setattr(inference_main, "require_parts", lambda *names, **named: None)
    return made


class Share(torch.nn.Module):
    """A network that takes the same share of everything."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.n_calls = share, 0

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        self.n_calls += 1
        return self.share * sound


@pytest.fixture
def networks(voice, monkeypatch):
    """Stand-ins for models that separate, by the names of their files."""
    made = {"vocals": Share(0.5), "lead": Share(0.75), "dry": Share(0.8)}

    def load(path: Path, device: torch.device, config: Path | None = None) -> separation.Separator:
        stem, stamp = path.name.split(".")
        spec = SeparatorSpec((stem,), RATE, 2, RATE, RATE // 2, RATE // 2, False)
        return separation.Separator([Member(made[stem], (1.0,))], spec, device, stem, stamp)

    monkeypatch.setattr(separation, "load_separator", load)
    monkeypatch.setattr(cover, "require_networks", lambda: None)
    for name in made:
        Path(f"{name}.th").touch()
    return made


def run(*flags: str) -> int:
    return cover.main(["song", *STEMS, "-s", "alto", *flags])


def written() -> dict[str, int]:
    """Results and intermediates with when they were written."""
    found = (path for path in Path("results").rglob("[!.]*.*") if path.is_file())
    return {path.relative_to("results").as_posix(): path.stat().st_mtime_ns for path in found}


def test_the_voice_is_where_the_lead_was_and_as_loud(voice, capsys):
    assert cover.main(["song.wav", *STEMS, "-s", "alto"]) == 0
    assert set(written()) == {COVER.name, f"{FOLDER.name}/lead vocals.flac_0key_alto_sovits_fcpe.flac"}
    wav, rate = soundfile.read(COVER)
    assert rate == RATE and wav.shape == (N, 2), "exactly as long as the song"
    sung_now = wav - MUSIC
    levels = 20 * np.log10(np.sqrt((sung_now**2).mean(0)) / np.sqrt((LEAD.astype(float) ** 2).mean(0)))
    assert np.abs(levels).max() < 0.1
    assert capsys.readouterr().out.startswith("Next: python compare.py")
    assert soundfile.SoundFile(COVER).title == "song" and "alto" in soundfile.SoundFile(COVER).artist


def test_what_is_there_is_not_made_again(voice, capsys):
    assert run("-t", "12", "--json") == 0
    first, n_inferred = written(), voice.n_inferred
    assert run("-t", "12", "--json") == 0
    assert written() == first and not voice.calls, "the second run does nothing"
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["already_there"] for line in lines] == [False, True]
    assert all(Path(line["result"]).is_file() and line["source"] == "raw/song.wav" for line in lines)
    assert run("-t", "12", "--vocal_gain", "-3") == 0
    assert not voice.calls and set(written()) - set(first) == {"song_12key_alto_cover_2.flac"}, "mixed again alone"
    assert run() == 0
    assert voice.n_inferred == n_inferred, "another key: converted and mixed"
    os.utime(STEMS[3])
    assert run("-t", "12") == 0
    assert not voice.calls, "other music: mixed alone"
    os.utime(STEMS[1])
    assert run("-t", "12") == 0
    assert voice.n_inferred == n_inferred, "another lead: converted and mixed"
    assert {name: time for name, time in written().items() if name in first} == first, "what was made stays"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kills a fork of this process")
@pytest.mark.parametrize("step", ["convert", "mix", "note"])
def test_after_a_kill_the_same_command_goes_on(voice, monkeypatch, step):
    flags = ["-cl", "1"]
    assert run(*flags, "-t", "12") == 0  # of another request, which stays as it is
    before, n_chunks = written(), voice.n_inferred

    def die(*args, **named) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_when_written(path: Path, key: str) -> None:
        return die() if path.is_file() else note_result(path, key)

    child = os.fork()
    if not child:
        if step == "convert":
            voice.on_infer = lambda synthesizer: die() if len(synthesizer.seen) == 2 else None
        elif step == "mix":
            monkeypatch.setattr("modules.inference.cover.StreamWriter.write", die)
        else:
            monkeypatch.setattr("modules.inference.cover.note_result", die_when_written)
        run(*flags)
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert run(*flags) == 0
    assert voice.n_inferred == (n_chunks - 2 if step == "convert" else 0), "nothing is converted twice"
    found = written()
    assert {name: found.get(name) for name in before} == before
    assert len(found) == len(before) + 2, "one cover and one converted lead"
    assert soundfile.info(COVER.with_name("song_0key_alto_cover.flac")).frames == N
    assert not list(Path("results").rglob("*.partial*")) + list(Path("results").rglob("*.unfinished"))


def test_a_song_is_separated_once_and_only_its_dry_lead_is_converted(voice, networks):
    models = ["--separator", "vocals.th", "--lead_model", "lead.th", "--echo_model", "dry.th"]
    flags = ["song.wav", "-s", "alto", *models]
    assert cover.main(flags) == 0
    stems = {path.stem: soundfile.read(path, dtype="float32")[0] for path in FOLDER.glob("*.flac")}
    assert set(stems) == {"vocals", "music", "lead", "backing", "dry", "dry.flac_0key_alto_sovits_fcpe"}
    wav, rate = soundfile.read(COVER)
    assert rate == RATE and wav.shape == (N, 2)
    sung_now = wav - stems["music"] - stems["backing"]  # its echo does not come back
    assert np.sqrt((sung_now**2).mean(0)) == pytest.approx(np.sqrt((stems["dry"] ** 2).mean(0)), rel=0.01)
    n_calls, first = {name: network.n_calls for name, network in networks.items()}, written()
    assert cover.main(flags) == 0
    assert written() == first and not voice.calls
    assert cover.main([*flags, "-t", "12"]) == 0
    assert voice.n_inferred and set(written()) - set(first) >= {"song.wav_12key_alto_cover.flac"}
    assert {name: network.n_calls for name, network in networks.items()} == n_calls, "separated once"
    Path("vocals.other").touch()
    assert cover.main(["song.wav", "-s", "alto", "--separator", "vocals.other"]) == 0
    assert Path("results/song.wav_cover_2/vocals.flac").is_file(), "another model's stems are elsewhere"
    assert {name: time for name, time in written().items() if name in first} == first


def test_of_several_songs_a_bad_one_does_not_stop_the_rest(voice, networks, caplog):
    Path("raw/älbum of two").mkdir()
    Path("raw/älbum of two/bad.wav").write_bytes(b"RIFFnothing")
    soundfile.write("raw/älbum of two/göod.wav", LEAD[:RATE], RATE)
    flags = ["-s", "alto", "--separator", "vocals.th"]
    assert cover.main(["älbum of two", *flags]) == 1
    assert Path("results/älbum of two/göod.wav_0key_alto_cover.flac").is_file()
    assert "bad.wav" in caplog.text and "1 of 2 songs failed" in caplog.text
    with pytest.raises(AudioError, match=r"bad\.wav"):
        cover.main(["älbum of two/bad.wav", *flags])


def test_stems_alone_are_enough_and_the_music_says_how_long(voice, caplog):
    soundfile.write(STEMS[3], MUSIC[:-RATE, 0], RATE)
    assert cover.main([*STEMS, "-s", "alto", "-wf", "wav"]) == 0
    wav, _ = soundfile.read("results/lead vocals.flac_0key_alto_cover.wav", always_2d=True)
    assert wav.shape == (N - RATE, 2) and "1.00 s longer" in caplog.text


@pytest.mark.parametrize("name", ["m4a", "mp3"])
def test_covers_are_written_in_the_formats_of_players(voice, name):
    assert run("-wf", name) == 0
    sound = open_sound(Path(f"results/song_0key_alto_cover.{name}"))
    assert (sound.rate, sound.channels) == (RATE, 2)
    assert 0 <= sum(map(len, sound.blocks())) - N < 2400


def test_a_voice_in_another_key_than_the_music_is_warned_of(voice, caplog):
    assert run("-t", "3") == 0
    assert "-t 3: the voice is transposed and the music is not" in caplog.text
    caplog.clear()
    assert run("-t", "-12") == 0 and "transposed" not in caplog.text


def test_the_automatic_key_is_a_whole_octave(voice):
    Path("dataset/44k").mkdir(parents=True)
    low = PitchHistogram.from_curve(np.full(500, 123.0), np.ones(500))  # the song sings 200 Hz, 8.4 semitones higher
    Path("dataset/44k", FILE_NAME).write_text(json.dumps({"alto": low.to_plain()}))
    assert run("-t", "auto") == 0
    assert Path("results/song_-12key_alto_cover.flac").is_file()


def test_the_lead_is_sung_by_a_curve_of_its_own(voice):
    assert run("--f0_out", "mine.csv") == 0
    before = written()
    Path("mine.csv").write_text(Path("mine.csv").read_text("utf-8").replace(",200.0,1", ",300.0,1"), "utf-8")
    assert run("--f0_in", "mine.csv") == 0
    assert (voice.synthesizer.seen[0]["f0"] == 300).all()
    assert "song_0key_alto_cover_2.flac" in set(written()) - set(before)


def test_several_voices_and_the_default_settings(voice):
    assert cover.main(["song", *STEMS, "-s", "alto", "tenor"]) == 0
    assert {f"song_0key_{name}_cover.flac" for name in ("alto", "tenor")} <= set(written())
    args = cover.make_arguments().parse_args([])
    assert (args.loudness_envelope_adjustment, args.f0_predictor) == (0.0, "fcpe")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name a song in front of the flags"),
        (["song", "--vocals", STEMS[1]], "--vocals goes together with --music"),
        (["song", "--music", STEMS[3]], "--music goes together with --vocals"),
        (["song", "--vocals", "gone.wav", "--music", STEMS[3]], "--vocals gone.wav: no such file"),
        (["song", "--vocals", STEMS[1], "--music", "raw"], "--music raw: is a folder"),
        (["song", "other", *STEMS], "--vocals and --music are of one song, and 2 are named"),
        (["song", *STEMS, "--vocal_gain", "99"], "--vocal_gain is 99"),
        (["song", *STEMS, "-wf", "xyz"], "unknown output format 'xyz'"),
        (["song", *STEMS, "-s", "bass"], "no speaker 'bass'"),
        (["nothing", *STEMS, "-s", "alto"], "nothing: no such file"),
        (["song", *STEMS, "--lead_model", "x"], "--lead_model is for songs that are separated here"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(voice, flags, message):
    with pytest.raises(UserError, match=message):
        cover.main(flags)
    assert not hasattr(voice, "calls"), "refused before the networks are loaded"


def test_a_model_that_is_not_there_is_named_by_its_flag(voice, monkeypatch):
    monkeypatch.setattr(cover, "require_networks", lambda: None)
    monkeypatch.setattr("modules.separation.models.find", lambda path: None)
    with pytest.raises(UserError, match="or name a file with --separator"):
        cover.main(["song", "-s", "alto"])
    Path("a.th").touch()
    with pytest.raises(UserError, match=r"--lead_model gone\.ckpt: no such file"):
        cover.main(["song", "-s", "alto", "--separator", "a.th", "--lead_model", "gone.ckpt"])
    with pytest.raises(UserError, match=r"--separator_config gone\.yaml: no such file"):
        cover.main(["song", "-s", "alto", "--separator", "a.th", "--separator_config", "gone.yaml"])


def test_music_that_is_no_audio_is_refused(voice):
    Path(STEMS[3]).write_bytes(b"RIFFnothing")
    with pytest.raises(AudioError, match="müsic"):
        run()


def test_a_file_of_the_user_is_never_replaced(voice):
    COVER.parent.mkdir()
    COVER.write_bytes(b"mine")
    assert cover.main(["song.wav", *STEMS, "-s", "alto"]) == 0
    assert COVER.read_bytes() == b"mine" and COVER.with_stem(f"{COVER.stem}_2").is_file()
    assert cover.main(["song.wav", *STEMS, "-s", "alto", "--overwrite", "--vocal_gain", "1"]) == 0
    assert soundfile.info(COVER).frames == N


def test_a_folder_of_stems_that_cannot_be_made_is_named(voice):
    FOLDER.parent.mkdir()
    FOLDER.touch()
    with pytest.raises(UsageError, match=r"song\.wav_cover: the folder cannot be made"):
        cover.main(["song.wav", *STEMS, "-s", "alto"])
