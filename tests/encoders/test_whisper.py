"""Whisper's encoder: the mel by another route, OpenAI's file layout, and the windows that long audio is cut into."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from golden_rule import GOLDENS
from signals import babble
from small_encoders import tone

from modules.encoders._networks.whisper import WhisperEncoder, load_encoder, log_mel, sinusoids
from modules.encoders.base import ENCODERS, build_encoder
from modules.encoders.whisper_ppg import FULL_WINDOWS, SHORT_WINDOWS, Layout, WhisperBase, WhisperPpg, plan_windows
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
@pytest.mark.parametrize("n_frames", [1, 49, 50, 51, 499, 500, 501, 950, 1250, 1500, 1501, 2900, 180000])
def test_windows_cover_everything_and_overlap_alike(layout, n_frames):
    windows = plan_windows(n_frames, layout)
    assert windows[0][0] == 0 and windows[-1][1] == n_frames
    assert all(1 <= end - start <= layout.longest for start, end in windows)
    assert all(left[1] - right[0] == layout.overlap for left, right in pairwise(windows))
    assert len(windows) == 1 or min(end - start for start, end in windows) > layout.longest / 2


def test_a_clip_of_25_seconds_gives_n_over_320_frames(base):
    assert base.encode(babble(25 * 16000 + 200)).shape == (512, 1250)


def test_windows_equal_the_encoder_run_on_each_alone_except_where_they_join(base):
    wav = babble(16 * 16000)
    units = base.encode(wav)
    windows = plan_windows(800, base.layout)
    assert len(windows) == 2
    overlap = base.layout.overlap
    for (start, end), inner in zip(windows, (slice(0, -overlap), slice(overlap, None))):
        alone = base.encode(wav[start * 320 : end * 320])
        torch.testing.assert_close(units[:, start:end][:, inner], alone[:, inner], atol=1e-4, rtol=1e-4)


def test_joins_are_a_blend_of_both_windows(base):
    wav = babble(16 * 16000)
    (_, first_end), (second_start, _) = plan_windows(800, base.layout)
    first, second = base.encode(wav[: first_end * 320]), base.encode(wav[second_start * 320 :])
    middle = (second_start + first_end) // 2
    rise = (middle - second_start + 1) / (first_end - second_start + 1)
    wanted = (1 - rise) * first[:, middle] + rise * second[:, middle - second_start]
    torch.testing.assert_close(base.encode(wav)[:, middle], wanted, atol=1e-4, rtol=1e-4)


def test_the_end_of_a_clip_is_as_good_as_with_silence_recorded_behind_it(base):
    wav = babble(5 * 16000)
    longer = base.encode(np.concatenate([wav, np.zeros(16000, np.float32)]))[:, :250]
    assert cosine(base.encode(wav), longer)[-10:].mean() > 0.95


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
    monkeypatch.setattr(WhisperBase, "layout", Layout(longest=150, overlap=20, silence=0, padded=150))
    encoder = WhisperBase("cpu")
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
