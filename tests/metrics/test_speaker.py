"""The speaker encoder: unit vectors of the right windows, the file it reads, and where that is looked for.

The published weights are not needed: a network of the same shapes with random weights has every property tested here.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from librosa.feature import melspectrogram
from signals import babble, sung

from modules.errors import AudioError, CheckpointError
from modules.metrics.speaker import WEIGHTS_PATH, find_speaker_encoder, load_speaker_encoder
from modules.pretrained import find as pretrain
from modules.weights.checkpoint import save_weights

RATE = 16000
SHAPES = {"linear.weight": (256, 256), "linear.bias": (256,)}
for layer, width in enumerate((40, 256, 256)):
    SHAPES |= {f"lstm.weight_ih_l{layer}": (1024, width), f"lstm.weight_hh_l{layer}": (1024, 256)}
    SHAPES |= {f"lstm.bias_ih_l{layer}": (1024,), f"lstm.bias_hh_l{layer}": (1024,)}


@pytest.fixture(scope="module")
def content():
    """What a file holds: random weights in half precision, of a size that makes different sounds differ."""
    generator = torch.Generator().manual_seed(3)
    state = {name: (0.1 * torch.randn(shape, generator=generator)).half() for name, shape in SHAPES.items()}
    extra = {"similarity_weight": torch.tensor([10.0]), "similarity_bias": torch.tensor([-5.0])}
    return {"step": 7, "model_state": state | extra, "optimizer_state": {"state": {}}}


@pytest.fixture
def path(content, tmp_path):
    save_weights(tmp_path / "pretrained.pt", content)
    return tmp_path / "pretrained.pt"


@pytest.fixture(scope="module")
def encoder(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("speaker") / "pretrained.pt"
    save_weights(path, content)
    return load_speaker_encoder(path, "cpu")


def voice(seconds: float, hz: float = 200.0) -> torch.Tensor:
    """A tone with noise at about -20 dBFS."""
    n_samples = int(seconds * RATE)
    return torch.from_numpy(0.5 * sung(np.full(n_samples, hz), RATE) + babble(n_samples))


def rms_db(wav: torch.Tensor) -> float:
    return 20 * float(wav.square().mean().sqrt().log10())


def by_hand(wav: np.ndarray, state: dict[str, torch.Tensor]) -> np.ndarray:
    """The embedding from librosa's mel, a window cut at a time, and the LSTM written out gate by gate."""
    weights = {name: tensor.double().numpy() for name, tensor in state.items()}
    padded = np.pad(wav, (0, 25600))
    mel = melspectrogram(y=padded, sr=RATE, n_fft=400, hop_length=160, n_mels=40).astype(np.float64)
    starts = [start for start in range(0, mel.shape[1], 77) if start == 0 or len(wav) - 160 * start >= 0.75 * 25600]
    partials = []
    for start in starts:
        frames = mel[:, start : start + 160].T
        for layer in range(3):
            h, c, out = np.zeros(256), np.zeros(256), []
            for frame in frames:
                gates = weights[f"lstm.weight_ih_l{layer}"] @ frame + weights[f"lstm.weight_hh_l{layer}"] @ h
                gates += weights[f"lstm.bias_ih_l{layer}"] + weights[f"lstm.bias_hh_l{layer}"]
                i, f, g, o = np.split(gates, 4)
                c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
                h = np.tanh(c) / (1 + np.exp(-o))
                out.append(h)
            frames = np.array(out)
        vector = np.maximum(weights["linear.weight"] @ frames[-1] + weights["linear.bias"], 0)
        partials.append(vector / np.linalg.norm(vector))
    mean = np.mean(partials, axis=0)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("n_samples", [25600, 19200 + 12320 - 1, 19200 + 12320, 50000])
def test_it_is_what_librosa_and_an_lstm_written_out_give(encoder, content, n_samples):
    wav = voice(4)[:n_samples]
    expected = by_hand(wav.numpy(), content["model_state"])
    # Single against double precision over 160 steps of a random network.
    np.testing.assert_allclose(encoder.embed(wav, RATE).numpy(), expected, atol=1e-4)


def test_an_embedding_has_length_one_and_is_most_like_itself(encoder):
    low, high = (encoder.embed(voice(3, hz), RATE) for hz in (120.0, 480.0))
    assert low.shape == (256,) and low.dtype == torch.float32
    assert float(low.norm()) == pytest.approx(1, abs=1e-5) == float(high.norm())
    assert encoder.similarity(low, low) == pytest.approx(1, abs=1e-5)
    assert encoder.similarity(low, high) < 0.999
    assert encoder.similarity(low, high) == pytest.approx(float(low @ high), abs=1e-5)


def test_a_quiet_voice_is_raised_and_a_loud_one_is_left_alone(encoder):
    wav = voice(2)
    wav = wav * 10 ** ((-30 - rms_db(wav)) / 20)
    assert rms_db(wav) == pytest.approx(-30, abs=0.01)
    at_level, quieter, louder = (encoder.embed(wav * gain, RATE) for gain in (1, 0.01, 1.2))
    torch.testing.assert_close(quieter, at_level, atol=1e-4, rtol=0)
    assert not torch.allclose(louder, at_level, atol=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wav", [torch.zeros(0), torch.zeros(1), torch.zeros(40000), torch.full((20000,), 1e-7)])
@pytest.mark.parametrize("rate", [RATE, 44100])
def test_silence_is_nobodys_voice(encoder, wav, rate):
    nobody = encoder.embed(wav, rate)
    assert nobody.tolist() == [0.0] * 256
    assert encoder.similarity(nobody, encoder.embed(voice(2), RATE)) == 0
    assert encoder.similarity(nobody, nobody) == 0


@pytest.mark.parametrize("n_samples", [1, 100, 399, 401, 16000])
def test_a_short_wave_is_filled_up_with_silence(encoder, n_samples):
    # Loud, so that the level that is measured of a shorter wave raises neither.
    wav = torch.full((n_samples,), 0.9) * torch.randn(n_samples).sign()
    filled = torch.cat([wav, torch.zeros(25600 - n_samples)])
    if rms_db(filled) > -30:
        torch.testing.assert_close(encoder.embed(wav, RATE), encoder.embed(filled, RATE), atol=1e-5, rtol=0)
    assert float(encoder.embed(wav, RATE).norm()) == pytest.approx(1, abs=1e-5)


def test_the_rate_of_the_wave_hardly_matters(encoder):
    n_samples = 2 * 48000
    wide = sung(np.full(n_samples, 220.0), 48000)
    narrow = sung(np.full(n_samples // 3, 220.0), RATE)
    # The eleven harmonics lie below 8 kHz at either rate; the start of a wave is what resampling changes.
    assert encoder.similarity(encoder.embed(wide, 48000), encoder.embed(narrow, RATE)) > 0.999


def test_a_song_is_read_a_few_windows_at_a_time(encoder, monkeypatch):
    wav = voice(10)
    whole = encoder.embed(wav, RATE)
    monkeypatch.setattr("modules.metrics.speaker._BATCH", 5)  # of the 12 windows
    torch.testing.assert_close(encoder.embed(wav, RATE), whole, atol=1e-5, rtol=0)


def test_arrays_and_tensors_are_the_same_and_stay_as_they_are(encoder):
    wav = voice(2) * 0.001
    before = wav.clone()
    assert torch.equal(encoder.embed(wav.numpy(), RATE), encoder.embed(wav, RATE))
    assert torch.equal(wav, before)
    wav.requires_grad_(True)
    assert not encoder.embed(wav, RATE).requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sample_that_is_not_finite_is_refused(encoder, bad):
    wav = voice(2)
    wav[77] = bad
    with pytest.raises(AudioError, match="not finite"):
        encoder.embed(wav, RATE)


def test_random_numbers_stay_untouched(path):
    before = torch.get_rng_state()
    load_speaker_encoder(path, "cpu").embed(voice(2), RATE)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_tensor_of_another_shape_or_kind_or_none_is_named(content, tmp_path, name):
    path = tmp_path / "pretrained.pt"
    right = content["model_state"]
    wrong = {
        "is missing": None,
        r"is \[2, 3\]": torch.zeros(2, 3),
        "int64": torch.zeros(SHAPES[name], dtype=torch.int64),
    }
    for said, tensor in wrong.items():
        state = {key: value for key, value in (right | {name: tensor}).items() if value is not None}
        save_weights(path, {"model_state": state})
        with pytest.raises(CheckpointError, match=rf"pretrained\.pt: .*{name} .*{said}"):
            load_speaker_encoder(path, "cpu")


@pytest.mark.parametrize("content", [{}, {"model_state": 3}, {"model": {}}])
def test_another_dictionary_is_refused(tmp_path, content):
    save_weights(tmp_path / "pretrained.pt", content)
    with pytest.raises(CheckpointError, match=r"is missing.*get pretrained\.pt from"):
        load_speaker_encoder(tmp_path / "pretrained.pt", "cpu")


class Payload:
    """Pickles into a call that leaves a folder behind."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_wants_to_run_code_is_refused_and_does_not(content, tmp_path, zipped):
    path, marker = tmp_path / "pretrained.pt", tmp_path / "ran"
    torch.save(content | {"optimizer_state": Payload(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"pretrained\.pt: refused.*mkdir"):
        load_speaker_encoder(path, "cpu")
    assert not marker.exists()


@pytest.mark.parametrize("damage", [b"", b"hello", None])
def test_a_damaged_or_absent_file_is_named(path, damage):
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"pretrained\.pt"):
        load_speaker_encoder(path, "cpu")


def test_the_weights_no_longer_need_the_file(content, path):
    # In single precision, like the published ones: nothing has to be converted.
    save_weights(path, {"model_state": {name: value.float() for name, value in content["model_state"].items()}})
    encoder = load_speaker_encoder(path, "cpu")
    before = encoder.embed(voice(2), RATE)
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert torch.equal(encoder.embed(voice(2), RATE), before)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """(workspace, code, a folder of installed packages), all empty."""
    folders = [tmp_path / name for name in ("workspace", "code", "site-packages")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[0])
    monkeypatch.setattr(pretrain, "CODE_ROOT", folders[1])
    outside = [entry for entry in sys.path if not Path(entry, "resemblyzer").is_dir()]
    monkeypatch.setattr(sys, "path", [str(folders[2]), *outside])
    monkeypatch.delitem(sys.modules, "resemblyzer", raising=False)
    return folders


def test_the_workspace_comes_first_then_the_code_then_the_installed_package(places):
    workspace, code, packages = places
    assert find_speaker_encoder() is None
    package = packages / "resemblyzer"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    assert find_speaker_encoder() is None
    expected = package / "pretrained.pt", code / WEIGHTS_PATH, workspace / WEIGHTS_PATH
    for path in expected:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
        assert find_speaker_encoder() == path
    assert "resemblyzer" not in sys.modules


def test_a_module_of_that_name_has_no_weights(places):
    (places[2] / "resemblyzer.py").write_text("")
    assert find_speaker_encoder() is None
