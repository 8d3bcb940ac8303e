"""Optional scorers: what they say where their packages are missing, and what they ask of them where they are not."""

import inspect
import math

import numpy as np
import pytest
from evaluation.stand_ins import install_dnsmos, install_whisper, make_whisper_folder, uninstall

from modules.errors import AudioError, UsageError
from modules.evaluation.extras import NaturalnessScorer, Transcriber, Transcript, find_whisper
from modules.pretrained.catalogue import weights_of

WAV = np.sin(np.arange(8000) / 5).astype(np.float32)  # one second


@pytest.fixture
def whisper(monkeypatch):
    return install_whisper(monkeypatch)


@pytest.fixture
def dnsmos(monkeypatch):
    install_dnsmos(monkeypatch)


@pytest.mark.parametrize(
    ("scorer", "package", "name", "command"),
    [
        (find_whisper, "faster_whisper", "faster-whisper", "faster-whisper"),
        (NaturalnessScorer, "speechmos", "speechmos", "speechmos onnxruntime requests"),
        (NaturalnessScorer, "onnxruntime", "onnxruntime", "speechmos onnxruntime requests"),
    ],
)
def test_a_missing_package_is_named_with_a_command_that_brings_it(monkeypatch, dnsmos, scorer, package, name, command):
    uninstall(monkeypatch, package)
    with pytest.raises(UsageError, match=rf"^{name} is not installed: pip install {command}$"):
        scorer()


def test_words_are_transcribed_in_the_language_asked_for(whisper, tmp_path):
    folder = make_whisper_folder(tmp_path / "tiny")
    scorer = Transcriber(folder)
    assert scorer.transcribe(WAV, 8000) == Transcript("Sing, my song", "en")
    assert scorer.transcribe(WAV, 8000, "it").language == "it"
    (name, loaded), (n_samples, settings), _ = whisper.asked  # loaded once
    assert (name, loaded["device"], loaded["compute_type"]) == (str(folder), "cpu", "int8")
    assert n_samples == 16000 and settings["temperature"] == 0.0 and settings["language"] is None
    assert Transcriber(folder, language="it").transcribe(WAV, 8000).language == "it"
    with pytest.raises(UsageError, match=r"^--language xx: the model in .*tiny has no such language. It has: en, it$"):
        Transcriber(folder, language="xx")


def test_silence_has_no_words_and_a_failure_is_ours(whisper, tmp_path):
    scorer = Transcriber(make_whisper_folder(tmp_path / "tiny"))
    assert scorer.transcribe(np.zeros(8000), 8000) == Transcript("", "")
    whisper.error = RuntimeError("out of\nmemory")
    with pytest.raises(AudioError, match=r"Whisper cannot transcribe it \(out of memory\)"):
        scorer.transcribe(WAV, 8000)


def test_a_model_that_cannot_be_loaded_is_a_reason_in_one_line(whisper, tmp_path):
    reason = (
        r"^.*bad: the Whisper model cannot be loaded \(cannot read the weights\)\. Get one with: python pretrain/down"
    )
    with pytest.raises(UsageError, match=reason):
        Transcriber(make_whisper_folder(tmp_path / "bad", b"damaged"))


def test_a_whisper_model_is_the_given_folder_or_the_one_in_pretrain_and_never_a_download(
    whisper, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path)
    with pytest.raises(
        UsageError, match=r"no Whisper model in pretrain/faster-whisper/\. Get one with: .* faster-whisper"
    ):
        find_whisper()
    own = make_whisper_folder(tmp_path / "pretrain" / "faster-whisper")
    given = make_whisper_folder(tmp_path / "small")
    assert find_whisper() == own and find_whisper(given) == given and weights_of("faster-whisper")
    (given / "tokenizer.json").unlink()  # the package would fetch one
    with pytest.raises(
        UsageError, match=r"small: is no folder of a Whisper model.*: no tokenizer\.json\. Get one with"
    ):
        find_whisper(given)
    assert not whisper.asked


def test_naturalness_is_asked_of_clipped_sound_at_16_khz(dnsmos):
    scorer = NaturalnessScorer()
    assert scorer.score(3 * WAV, 8000) == 1.6
    assert math.isnan(scorer.score(np.zeros(8000), 8000)) and math.isnan(scorer.score(np.zeros(0), 8000))


def test_the_real_dnsmos_scores_a_tone():
    pytest.importorskip("speechmos")
    try:
        scorer = NaturalnessScorer()
    except UsageError as error:
        pytest.skip(str(error))
    assert 0.5 < scorer.score(0.3 * WAV, 8000) < 5


def test_the_real_faster_whisper_knows_what_it_is_asked():
    model = pytest.importorskip("faster_whisper").WhisperModel
    assert {"device", "compute_type"} <= set(inspect.signature(model).parameters) and model.supported_languages
    wanted = {"language", "temperature", "condition_on_previous_text"}
    assert wanted <= set(inspect.signature(model.transcribe).parameters)
