"""Whisper's encoder: the mel by another route, OpenAI's file layout, and the windows that long audio is cut into."""

import numpy as np
import pytest
import torch
from golden_rule import GOLDENS
from signals import babble
from small_encoders import tone

from modules.audio.windows import plan_overlaps
from modules.encoders._networks.whisper import WhisperEncoder, load_encoder, log_mel, sinusoids
from modules.encoders.base import ENCODERS, build_encoder
from modules.encoders.whisper_ppg import FULL_WINDOWS, SHORT_WINDOWS, Layout, WhisperPpg
from modules.errors import CheckpointError


@pytest.fixture(scope="module")
def base() -> WhisperPpg:
    return build_encoder("whisper-ppg-base", "cpu")


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cosine_similarity(a, b, dim=0)


def save_openai_file(path, width: int, n_layers: int, half: bool = True) -> WhisperEncoder:
    """A small Whisper as OpenAI stores it: fp16, with a decoder that we must not need."""
    torch.manual_seed(3)
    network = WhisperEncoder(80, 1500, width, n_layers).eval()
    if half:
        network.half().float()
    state = {f"encoder.{name}": value.half() for name, value in network.state_dict().items()}
    state["decoder.token_embedding.weight"] = torch.zeros(4, width)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"dims": {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": width}, "model_state_dict": state}, path)
    network.load_state_dict(
        {name.removeprefix("encoder."): v.float() for name, v in state.items() if "encoder." in name}
    )
    return network


def test_the_log_mel_equals_librosas_filters_on_a_numpy_spectrum():
    from librosa.filters import mel

    wav = babble(16000)
    padded = np.pad(wav.astype(np.float64), 200, mode="reflect")
    frames = np.stack([padded[i * 160 : i * 160 + 400] for i in range(100)], axis=1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(frames * window[:, None], axis=0)) ** 2
    log = np.log10(np.maximum(mel(sr=16000, n_fft=400, n_mels=80) @ power, 1e-10))
    wanted = (np.maximum(log, log.max() - 8) + 4) / 4
    found = log_mel(torch.from_numpy(wav), 80)
    assert found.shape == (80, 100)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-4)


def test_positions_are_sines_then_cosines():
    table = sinusoids(1500, 512)
    np.testing.assert_allclose(table[100, 0], np.sin(100.0), atol=1e-5)
    np.testing.assert_allclose(table[100, 256], np.cos(100.0), atol=1e-5)
    np.testing.assert_allclose(table[1499, 255], np.sin(1499 / 10000), atol=1e-5)


@pytest.mark.parametrize("layout", [SHORT_WINDOWS, FULL_WINDOWS])
@pytest.mark.parametrize("n_frames", [1, 50, 501, 1500, 1501, 2900, 180000])
def test_windows_are_neither_too_long_nor_too_short(layout, n_frames):
    sizes = [window.stop - window.start for window in plan_overlaps(n_frames, layout.longest, layout.overlap)]
    assert max(sizes) <= layout.longest and (len(sizes) == 1 or min(sizes) > layout.longest / 2)


def test_a_clip_of_11_seconds_gives_n_over_320_frames(base):
    assert base.encode(babble(11 * 16000 + 200)).shape == (512, 550)


def test_windows_equal_the_encoder_run_on_each_alone_and_joins_blend_both(base):
    wav = babble(16 * 16000)
    units = base.encode(wav)
    overlap = base.layout.overlap
    left, right = plan_overlaps(800, base.layout.longest, overlap)
    first, second = (base.encode(wav[window.start * 320 : window.stop * 320]) for window in (left, right))
    torch.testing.assert_close(units[:, : right.start], first[:, :-overlap], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(units[:, left.stop :], second[:, overlap:], atol=1e-4, rtol=1e-4)
    middle = (right.start + left.stop) // 2
    rise = (middle - right.start + 1) / (overlap + 1)
    wanted = (1 - rise) * first[:, middle] + rise * second[:, middle - right.start]
    torch.testing.assert_close(units[:, middle], wanted, atol=1e-4, rtol=1e-4)


def test_the_end_of_a_clip_is_as_good_as_with_silence_recorded_behind_it(base):
    wav = babble(5 * 16000)
    longer = base.encode(np.concatenate([wav, np.zeros(16000, np.float32)]))[:, :250]
    assert cosine(base.encode(wav), longer)[-10:].mean() > 0.95


def test_a_stream_gets_the_same_units_up_to_its_end_from_less_silence(base):
    wav = tone(19200)
    whole, quick = base.encode(wav), base.for_stream().encode(wav)
    assert whole.shape == quick.shape and base.layout.silence == 100
    assert cosine(whole[:, :-5], quick[:, :-5]).median() > 0.95 and not torch.equal(whole, quick)


def test_the_medium_layout_pads_to_30_seconds_as_published_models_expect(monkeypatch, tmp_path):
    network = save_openai_file(tmp_path / "pretrain" / "medium.pt", 1024, 1)
    monkeypatch.chdir(tmp_path)
    encoder = build_encoder("whisper-ppg", "cpu")
    wav = babble(2 * 16000 + 100)
    padded = torch.from_numpy(np.pad(wav, (0, 480000 - len(wav))))
    with torch.no_grad():
        wanted = network(log_mel(padded, 80)[None])[0, :100].T
    torch.testing.assert_close(encoder.encode(wav), wanted, atol=1e-4, rtol=1e-4)


def test_a_small_openai_file_is_read_and_its_decoder_ignored(tmp_path):
    network = save_openai_file(tmp_path / "tiny.pt", 384, 2)
    loaded = load_encoder(tmp_path / "tiny.pt", 384)
    assert len(loaded.blocks) == 2 and loaded.conv1.weight.dtype == torch.float32
    mel = torch.randn(1, 80, 40)
    torch.testing.assert_close(loaded(mel), network(mel))


def test_a_file_of_another_size_or_kind_is_refused(tmp_path):
    save_openai_file(tmp_path / "tiny.pt", 384, 1)
    with pytest.raises(CheckpointError, match="width 384; this encoder needs width 512"):
        load_encoder(tmp_path / "tiny.pt", 512)
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no Whisper encoder"):
        load_encoder(tmp_path / "other.pt", 512)
    (tmp_path / "half.pt").write_bytes((tmp_path / "tiny.pt").read_bytes()[:50000])
    with pytest.raises(CheckpointError, match=r"half\.pt"):
        load_encoder(tmp_path / "half.pt", 384)


def test_clips_in_full_windows_go_through_together_with_their_own_numbers(monkeypatch):
    monkeypatch.setattr(
        ENCODERS.get("whisper-ppg-base"), "layout", Layout(longest=150, overlap=20, silence=0, padded=150)
    )
    encoder = build_encoder("whisper-ppg-base", "cpu")
    clips = [babble(48000)[:n] for n in (48000, 16000, 100, 0, 33333)]
    for clip, units in zip(clips, encoder.encode_batch(clips), strict=True):
        torch.testing.assert_close(units, encoder.encode(clip), atol=1e-4, rtol=0)
    longer = [babble(60000), babble(16000)]
    for clip, units in zip(longer, encoder.encode_batch(longer), strict=True):
        torch.testing.assert_close(units, encoder.encode(clip), atol=0, rtol=0)


@pytest.mark.parametrize("length", [16000, 33333])
def test_the_units_equal_transformers(small_encoders, monkeypatch, tmp_path, length):
    """The layout of so-vits-svc: one window of 30 s, padded with zeros."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/medium.pt").write_bytes((small_encoders / "whisper/small.pt").read_bytes())
    monkeypatch.setattr(ENCODERS.get("whisper-ppg"), "dim", 64)
    features = np.load(GOLDENS / "whisper" / "features.npz")
    units = build_encoder("whisper-ppg", "cpu").encode(tone(length))
    torch.testing.assert_close(units, torch.from_numpy(features[str(length)].T), atol=1e-4, rtol=0)
