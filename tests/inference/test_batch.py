"""From typed names to files and back, and a batch that goes on."""

from pathlib import Path

import pytest
import soundfile
from inference.fake_voice import fake_converter, sung

from modules.errors import AudioError, UsageError
from modules.inference.batch import Job, check_results_differ, each_once, run_jobs
from modules.inference.options import ConversionOptions
from modules.inference.results import JOURNAL, RESULTS, result_name

ALTO = ConversionOptions("alto")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("song.wav", ALTO, "song.wav_0key_alto_sovits_pm.flac"),
        ("song", ConversionOptions("nen", transpose=-12, output_format="wav"), "song_-12key_nen_sovits_pm.wav"),
        ("song.wav", ConversionOptions("nen", predict_f0=True), "song.wav_auto_nen_sovits_pm.flac"),
        ("album/one.ogg", ALTO, "album/one.ogg_0key_alto_sovits_pm.flac"),
        ("/somewhere/one.ogg", ALTO, "one.ogg_0key_alto_sovits_pm.flac"),
        ("../one.ogg", ALTO, "one.ogg_0key_alto_sovits_pm.flac"),
        ("song.wav", ConversionOptions("nen", retrieval_ratio=0.5), "song.wav_0key_nen_0.5_sovits_pm.flac"),
        ("песня.wav", ConversionOptions("a/b"), "песня.wav_0key_a_b_sovits_pm.flac"),
    ],
)
def test_results_are_named_as_upstream_names_them(name, options, expected):
    assert result_name(name, options, "pm") == expected


def test_two_sources_with_one_result_are_refused_and_twins_are_merged():
    def job(path: str) -> Job:
        return Job(Path(path), RESULTS / result_name(path, ALTO, "pm"), ALTO)

    first = job("/a/song.wav")
    assert each_once([first, first]) == [first]
    with pytest.raises(UsageError, match="would both be written"):
        check_results_differ([first, job("/b/song.wav")])
    again = job("/a/../a/song.wav")
    assert each_once([first, again]) == [first], "the same file by another path"
    check_results_differ([first, again])
    with pytest.raises(UsageError, match="one of the sources"):
        check_results_differ([Job(Path("results/x.flac"), Path("results/x.flac"), ALTO)])


def test_a_batch_goes_on_past_a_bad_file(tmp_path, caplog):
    converter, _, _ = fake_converter()
    (tmp_path / "bad.wav").write_bytes(b"RIFFnothing")
    soundfile.write(tmp_path / "good.wav", sung(1, 16000), 16000)
    jobs = [Job(tmp_path / f"{name}.wav", tmp_path / "out" / f"{name}.flac", ALTO) for name in ("bad", "good")]
    assert run_jobs(jobs, converter) == jobs[1:]
    assert "1 of 2 conversions failed" in caplog.text and "bad.wav" in caplog.text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good.flac", JOURNAL}
    with pytest.raises(AudioError):
        run_jobs(jobs[:1], converter)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    converter, _, _ = fake_converter()
    (tmp_path / "results").touch()
    soundfile.write(tmp_path / "good.wav", sung(1, 16000), 16000)
    with pytest.raises(UsageError, match="the folder cannot be made"):
        run_jobs([Job(tmp_path / "good.wav", tmp_path / "results" / "good.flac", ALTO)], converter)
