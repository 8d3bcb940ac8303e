"""separate.py: songs and folders, models by path and by name, what is done already, and what is wrong in one line."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_separators import write_htdemucs, write_roformer

import separate
from modules.errors import AudioError, MissingWeights, UsageError
from modules.pretrained.catalogue import PACKAGES
from modules.separation import models


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "CODE_ROOT", tmp_path / "nowhere")
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path / "nowhere")
    (tmp_path / models.FOLDER).mkdir(parents=True)
    write_htdemucs(tmp_path / models.FOLDER / "htdemucs.th")
    return tmp_path


def song(name, n_samples=6000, channels=2):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    wav = np.random.default_rng(n_samples).uniform(-0.3, 0.3, (n_samples, channels))
    soundfile.write(path, wav, 44100, format="WAV")
    return path


def parts():
    return sorted(path.relative_to("separated").as_posix() for path in Path("separated").rglob("*.flac"))


def test_a_song_becomes_vocals_and_music(workspace, capsys, caplog):
    song("my song.wav")
    assert separate.main(["my song.wav"]) == 0
    assert parts() == ["my song/music.flac", "my song/vocals.flac"]
    printed = capsys.readouterr()
    assert printed.out == (
        "1 song separated, 0 unchanged, 0 failed\nNext: python inference_main.py -n 'separated/my song/vocals.flac'\n"
    )
    assert re.search(r"my song\.wav: vocals: 100%.*<", printed.err)
    assert "by htdemucs.th" in caplog.text


def test_all_below_a_folder_is_separated_and_bad_files_are_left_out(workspace, capsys, caplog):
    for name in ("album/one.wav", "album/disc 2/two.wav", "album/.hidden.wav"):
        song(name)
    Path("album/bad.wav").write_bytes(b"no sound")
    Path("album/cover.jpg").write_bytes(b"no sound")
    assert separate.main(["album"]) == 1
    assert parts() == [f"{song}/{part}.flac" for song in ("disc 2/two", "one") for part in ("music", "vocals")]
    assert "2 songs separated, 0 unchanged, 1 failed" in capsys.readouterr().out
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and warnings[0].startswith(f"{Path('album/bad.wav')}: not an audio file")
    Path("album/bad.wav").unlink()
    assert separate.main(["album"]) == 0
    assert "0 songs separated, 2 unchanged, 0 failed" in capsys.readouterr().out
    assert separate.main(["."]) == 0, "results are no songs"
    assert "separated/album/one" in "".join(str(path.as_posix()) for path in Path().rglob("*.flac"))


def test_one_bad_song_is_an_error(workspace):
    Path("bad.wav").write_bytes(b"no sound")
    with pytest.raises(AudioError, match=r"bad\.wav: not an audio file"):
        separate.main(["bad.wav"])


def test_songs_of_one_name_get_folders_of_their_own_and_the_same_ones_again(workspace, capsys):
    song("a.wav")
    song("other/a.wav", 5000)
    for flags in ([], [], ["--overwrite"]):
        assert separate.main(["a.wav", "other/a.wav", "./a.wav", *flags]) == 0
        assert parts() == [f"{name}/{part}.flac" for name in ("a", "a_2") for part in ("music", "vocals")]
    out = capsys.readouterr().out
    counts = re.findall(r"(\d) songs? separated, (\d) unchanged", out)
    assert counts == [("2", "0"), ("0", "2"), ("2", "0")]
    lengths = [soundfile.info(f"separated/{name}/vocals.flac").frames for name in ("a", "a_2")]
    assert lengths == [6000, 5000]


def test_the_lead_and_the_dry_voice_by_models_named_in_every_way(workspace, capsys):
    song("a.wav")
    write_roformer(Path("kara.ckpt"), stem="karaoke")
    write_roformer(Path(models.FOLDER, "dereverb.ckpt"), "bs", stem="noreverb")
    write_htdemucs(Path(models.FOLDER, "mine.th"), 3)
    flags = ["-m", "mine", "--lead_model", "kara.ckpt", "--echo_model", "dereverb", "--out_dir", "out", "-d", "cpu"]
    assert separate.main(["a.wav", *flags]) == 0
    assert sorted(path.stem for path in Path("out/a").glob("*.flac")) == ["backing", "dry", "lead", "music", "vocals"]
    assert "-n out/a/dry.flac" in capsys.readouterr().out


def test_another_model_does_not_replace_what_is_there(workspace, caplog):
    caplog.set_level("INFO")
    song("a.wav")
    write_roformer(Path("m.ckpt"))
    Path("m.yaml").rename("settings.yml")
    separate.main(["a.wav"])
    separate.main(["a.wav", "-m", "m.ckpt", "--config", "settings.yml"])
    assert "these go to a_2 (--overwrite replaces)" in caplog.text and len(parts()) == 4


def test_a_model_that_gives_something_else_is_refused(workspace):
    song("a.wav")
    write_roformer(Path("drums.ckpt"), stem="drums")
    with pytest.raises(UsageError, match=r"drums\.ckpt: gives drums, and vocals is to be taken out"):
        separate.main(["a.wav", "-m", "drums.ckpt"])


def test_the_best_known_model_that_is_there_is_used(workspace):
    assert models.find_model(None, "-m").name == "htdemucs.th"
    write_htdemucs(Path(models.FOLDER, "htdemucs_ft_vocals.th"))
    assert models.find_model(None, "-m").name == "htdemucs_ft_vocals.th"
    Path(models.FOLDER, "MelBandRoformer.ckpt").touch()
    assert models.find_model(None, "-m").name == "htdemucs_ft_vocals.th", "a RoFormer needs its yaml"
    Path(models.FOLDER, "MelBandRoformer.yaml").touch()
    assert models.find_model(None, "-m").name == "MelBandRoformer.ckpt"
    assert models.find_model("MelBandRoformer", "-m").name == "MelBandRoformer.ckpt"
    assert models.find_model("htdemucs-ft", "-m").name == "htdemucs_ft_vocals.th"
    with pytest.raises(MissingWeights, match=r"python pretrain/download\.py melband-karaoke "):
        models.find_model("melband-karaoke", "--lead_model")
    with pytest.raises(UsageError, match="is a folder; name a file"):
        models.find_model("pretrain/separation", "-m")


def test_every_model_of_the_catalogue_is_found_by_its_name(workspace):
    for package in PACKAGES:
        if package.files[0].path.startswith(models.FOLDER):
            for weights in package.files:
                Path(weights.path).touch()
            assert models.find_model(package.name, "-m") == Path.cwd() / package.files[0].path
            assert {Path(weights.path).stem for weights in package.files} == {Path(package.files[0].path).stem}
