"""The command line of conversion: upstream's flags and names, and one line for every mistake."""

import json
import logging
from pathlib import Path

import pytest
import soundfile
from inference.fake_voice import fake_converter, sung

import assemble
import inference_main
from modules.config.io import save_config
from modules.config.schema import Config
from modules.errors import CheckpointError, ConfigError, MissingWeights, UsageError, UserError
from modules.inference.arguments import DEFAULT_MODEL
from modules.inference.requests import choose_config, choose_model, choose_speakers


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace with two songs, and a stand-in for the networks; gives the list of requests made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    for name in ("song.wav", "other.flac"):
        soundfile.write(tmp_path / "raw" / name, sung(1, 16000), 16000)
    return tmp_path


def write_voice(**names: int) -> None:
    """The files of a voice with these speakers where they are by default; the weights are nothing."""
    save_config(Config(spk=names), "logs/44k/config.json")
    Path("logs/44k/G_1.pth").touch()


@pytest.fixture
def requests(workspace, monkeypatch):
    """Conversion with stand-in networks, in two voices; gives the requests that were made."""
    made = []

    def load(request):
        made.append(request)
        return fake_converter()[0]

    write_voice(alto=0, tenor=1)
    monkeypatch.setattr(assemble, "load_converter", load)
    monkeypatch.setattr(inference_main, "require_parts", lambda *names, **named: None)
    return made


def results(folder: Path) -> set[str]:
    return {path.relative_to(folder / "results").as_posix() for path in (folder / "results").rglob("[!.]*.*")}


def test_every_file_is_converted_for_every_speaker(workspace, requests, capsys):
    flags = ["-n", "song", "other.flac", "-s", "tenor", "alto", "-t", "3", "-wf", "wav", "-f0p", "dio"]
    assert inference_main.main(flags) == 0
    assert results(workspace) == {
        f"{name}_3key_{speaker}_sovits_dio.wav" for name in ("song", "other.flac") for speaker in ("alto", "tenor")
    }
    assert requests[0].model_path == Path("logs/44k/G_1.pth") and requests[0].f0_predictor == "dio"
    assert capsys.readouterr().out.startswith(
        "Next: python compare.py raw/song.wav results/song_3key_tenor_sovits_dio.wav"
    )


def test_each_file_has_its_own_key_and_the_first_serves_the_rest(workspace, requests):
    soundfile.write(workspace / "raw" / "third.wav", sung(1, 16000), 16000)
    assert inference_main.main(["-n", "song", "other.flac", "third", "-s", "alto", "-t", "1", "-2"]) == 0
    assert results(workspace) == {
        "song_1key_alto_sovits_pm.flac",
        "other.flac_-2key_alto_sovits_pm.flac",
        "third_1key_alto_sovits_pm.flac",
    }


def test_the_limits_of_pitch_reach_the_request(workspace, requests):
    assert inference_main.main(["-n", "song", "-s", "alto"]) == 0
    assert inference_main.main(["-n", "song", "-s", "alto", "--f0_max", "1600", "--f0_min", "40", "--overwrite"]) == 0
    assert [(request.f0_min, request.f0_max) for request in requests] == [(50.0, 1100.0), (40.0, 1600.0)]
    with pytest.raises(UsageError, match="--f0_max 9000"):
        inference_main.main(["-n", "song", "-s", "alto", "--f0_max", "9000"])


def test_curves_are_written_and_sung_by_the_names_of_their_songs(workspace, requests, capsys):
    flags = ["-n", "song", "other.flac", "-s", "alto", "--no_metadata", "--json"]
    assert inference_main.main([*flags, "--f0_out", "curves"]) == 0
    made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [about["f0_curve"] for about in made] == ["curves/song.csv", "curves/other.csv"]
    Path("curves/other.csv").write_text("time,hz\n0,330\n1,330\n", "utf-8")
    assert inference_main.main([*flags, "--f0_in", "curves", "--autotune", "1", "--scale", "A minor"]) == 0
    made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [about["f0_range_hz"] for about in made] == [[196.0, 196.0], [329.6, 329.6]], "G3 and E4"
    Path("curves/song.csv").unlink()
    with pytest.raises(UsageError, match=r"--f0_in .*other\.csv, line 2: hz is '3'"):
        Path("curves/other.csv").write_text("time,hz\n0,3\n1,330\n", "utf-8")
        inference_main.main([*flags, "--f0_in", "curves"])


def test_keys_stay_with_their_files_when_one_is_missing(workspace, requests):
    assert inference_main.main(["-n", "gone", "other.flac", "-s", "alto", "-t", "1", "-2"]) == 1
    assert results(workspace) == {"other.flac_-2key_alto_sovits_pm.flac"}


def test_automatic_pitch_and_the_old_crepe_flag_show_in_the_name(workspace, requests):
    assert inference_main.main(["-n", "song", "-s", "alto", "-a", "-fmp"]) == 0
    assert results(workspace) == {"song_auto_alto_sovits_crepe.flac"}
    assert requests[0].f0_predictor == "crepe"


def test_a_range_that_is_not_known_is_refused_with_the_way_to_measure_it(workspace, requests):
    with pytest.raises(UsageError, match=r"--extend_range: .*'alto' sings.*evaluate\.py --range --card"):
        inference_main.main(["-n", "song", "-s", "alto", "--extend_range"])
    with pytest.raises(UsageError, match="--extend_range does not go with -a"):
        inference_main.main(["-n", "song", "-s", "alto", "--extend_range", "-a"])
    with pytest.raises(UsageError, match="--extend_range does not go with a mix"):
        inference_main.main(["-n", "song", "--mix", "alto=1", "tenor=1", "--extend_range"])


def test_both_spellings_of_the_noise_flag_are_understood():
    parse = inference_main.make_arguments().parse_args
    assert [parse([flag, "0.2"]).noise_scale for flag in ("-ns", "--noise_scale", "--noice_scale")] == [0.2] * 3
    assert parse([]).noise_scale == 0.4


def test_flags_without_effect_are_harmless_and_named(workspace, requests, capsys):
    flags = ["-n", "song", "-s", "alto", "-cm", "x.pt", "-cr", "0", "-fr", "-dm", "d.pt", "-dc", "d.yaml", "-ks", "50"]
    assert inference_main.main([*flags, "-eak", "3", "-lg", "1", "-se", "-t", "0", "5"]) == 0
    said = capsys.readouterr().err
    for flag in ("-cm", "-fr", "-eak", "-lg", "-t", "-ks", "-se"):
        assert f"{flag} has" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-lgr", "0"], "-lgr"),
        (["-ft", "1.5"], "-ft"),
        (["-ft", "nan"], "-ft"),
        (["-wf", "xyz"], "xyz"),
        (["-p", "-1"], "-p/"),
        (["-cr", "1.5"], "-cr/"),
        (["--max_segment", "0.5"], "--max_segment"),
        (["-n", "song", "--mix", "alto=x"], "'alto=x'.*number"),
        (["-n", "song", "-usm"], r"configs/spkmix\.json"),
        (["-n", "song", "-usm", "--mix_path", "gone.json"], r"gone\.json"),
        (["-sd", "40"], "-sd/"),
        (["-n", "nothing"], r"In raw/: other\.flac, song\.wav"),
        ([], r"君の知らない物語-src\.wav: no such file\. In raw/: other\.flac, song\.wav"),
        (["-n", "song", "-s", "soprano"], "'soprano'.*alto, tenor"),
        (["-n", "song"], "name the target voice with -s.*alto, tenor"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(workspace, requests, flags, message):
    with pytest.raises(UserError, match=message):
        inference_main.main(flags)
    assert not requests, "refused before the networks are loaded"


def test_the_only_speaker_needs_no_name():
    assert choose_speakers(None, ["alto"]) == ["alto"]
    assert choose_speakers(None, ["alto", "buyizi"]) == ["buyizi"]
    assert choose_speakers(["alto", "alto"], ["alto", "tenor"]) == ["alto"]


def test_without_m_the_newest_model_is_taken_unless_upstreams_default_exists(workspace, caplog):
    caplog.set_level(logging.INFO)
    folder = workspace / "logs" / "44k"
    folder.mkdir(parents=True)
    assert choose_model(None) == Path(DEFAULT_MODEL)
    for step in (0, 800, 12000):
        (folder / f"G_{step}.pth").touch()
    assert choose_model(None) == Path("logs/44k/G_12000.pth")
    assert "G_12000.pth" in caplog.text
    (folder / "G_37600.pth").touch()
    assert choose_model(None) == Path("logs/44k/G_37600.pth")
    assert choose_model("logs/44k/G_800.pth") == Path("logs/44k/G_800.pth")


def test_without_c_the_config_beside_the_model_is_taken(workspace):
    (workspace / "logs" / "tenor").mkdir(parents=True)
    (workspace / "logs" / "tenor" / "config.json").touch()
    assert choose_config(None, "logs/tenor/G_1.pth") == Path("logs/tenor/config.json")
    assert choose_config(None, "elsewhere/G_1.pth") == choose_config(None, None) == Path("logs/44k/config.json")
    assert choose_config("my.json", "logs/tenor/G_1.pth") == Path("my.json")


def write_config(path: Path, **model) -> Path:
    values = {"model": {"ssl_dim": 512, "speech_encoder": "whisper-ppg-base", **model}, "spk": {"alto": 0}}
    path.write_text(json.dumps(values), "utf-8")
    return path


def test_a_missing_config_or_model_is_named(workspace):
    with pytest.raises(UsageError, match=r"G_37600\.pth: no such file.*logs/44k/config\.json: no such file"):
        inference_main.main(["-n", "song"])
    write_config(workspace / "config.json")
    (workspace / "G_5.pth").touch()
    with pytest.raises(CheckpointError, match=r"G_7\.pth: no such file\. There: G_5\.pth"):
        inference_main.main(["-n", "song", "-m", "G_7.pth", "-c", "config.json"])
    with pytest.raises(CheckpointError, match=r"G_5\.pth"):
        inference_main.main(["-n", "song", "-m", "G_5.pth", "-c", "config.json"])


def test_an_encoder_of_another_width_is_named_with_both_widths(workspace):
    write_voice(alto=0)
    write_config(workspace / "config.json", ssl_dim=768)
    with pytest.raises(ConfigError, match=r"ssl_dim is 768.*'whisper-ppg-base'.* 512 wide"):
        inference_main.main(["-n", "song", "-c", "config.json"])


def test_an_unknown_encoder_device_or_predictor_is_answered_with_the_known_ones(workspace):
    write_voice(alto=0)
    write_config(workspace / "config.json", speech_encoder="myvec")
    with pytest.raises(ConfigError, match=r"'myvec'.*whisper-ppg-base"):
        inference_main.main(["-n", "song", "-c", "config.json"])
    write_config(workspace / "config.json")
    with pytest.raises(UsageError, match=r"'abacus': no such device.*cpu"):
        inference_main.main(["-n", "song", "-c", "config.json", "-d", "abacus"])
    with pytest.raises(UsageError, match=r"'pitchy'.*crepe"):
        inference_main.main(["-n", "song", "-c", "config.json", "-f0p", "pitchy"])


def test_a_missing_encoder_is_answered_with_its_source(workspace, monkeypatch):
    write_config(workspace / "config.json", speech_encoder="whisper-ppg", ssl_dim=1024)
    (workspace / "G_5.pth").touch()
    with pytest.raises(MissingWeights, match="https://"):
        inference_main.main(["-n", "song", "-c", "config.json", "-m", "G_5.pth"])
