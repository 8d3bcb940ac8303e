"""PC-NSF-HiFiGAN: against the network written out here from its description, and a vowel that changes its pitch."""

import json
import math

import numpy as np
import parselmouth
import pytest
import torch
from torch.nn import functional as F

from modules.config.audio import AudioSpec
from modules.config.vocoder import VocoderConfig, load_vocoder_config
from modules.errors import ConfigError
from vdecoder.enhancer import NsfHifiganEnhancer
from vdecoder.mel_vocoder import NsfHifiganVocoder, build_vocoder, load_vocoder
from vdecoder.source import SineSource

CPU = torch.device("cpu")
SMALL = {
    "sampling_rate": 8000,
    "num_mels": 6,
    "n_fft": 128,
    "win_size": 128,
    "hop_size": 32,
    "fmin": 40,
    "fmax": 4000,
    "upsample_rates": [4, 2, 2, 2],
    "upsample_kernel_sizes": [8, 4, 4, 4],
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3, 7],
    "resblock_dilation_sizes": [[1, 3], [1, 5]],
    "mini_nsf": True,
    "noise_sigma": 0.0,
    "pc_aug": True,
}


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build_vocoder(VocoderConfig.model_validate(SMALL)).state_dict()


def write_files(folder, content: dict, **changes):
    (folder / "config.json").write_text(json.dumps({**SMALL, **changes}))
    torch.save(content, folder / "model.ckpt")
    return folder / "model.ckpt"


def sine_by_hand(f0: np.ndarray, rate: float, per_frame: int) -> np.ndarray:
    """The sine sample by sample: the phase moves by the pitch there, on a line from this frame's to the next one's."""
    phase, samples = 0.0, []
    for frame, hz in enumerate(f0):
        following = f0[min(frame + 1, len(f0) - 1)]
        for n in range(per_frame):
            phase += (hz + (following - hz) * n / per_frame) / rate
            samples.append(math.sin(2 * math.pi * phase))
    return np.array(samples)


def by_hand(weights: dict[str, torch.Tensor], mel: torch.Tensor, f0: torch.Tensor) -> torch.Tensor:
    def of(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        v, g = weights[f"{name}.weight_v"], weights[f"{name}.weight_g"]
        return v * g / v.flatten(1).norm(dim=1)[:, None, None], weights[f"{name}.bias"]

    x = F.conv1d(mel[None], *of("conv_pre"), padding=3)
    for stage, (rate, kernel) in enumerate(zip(SMALL["upsample_rates"], SMALL["upsample_kernel_sizes"])):
        x = F.conv_transpose1d(F.leaky_relu(x, 0.1), *of(f"ups.{stage}"), rate, padding=(kernel - rate) // 2)
        if stage == 1:
            sine = torch.from_numpy(sine_by_hand(f0.numpy().astype(np.float64), 8000 / 4, 8)).float()
            x = x + weights["source_conv.weight"][:, 0] * sine + weights["source_conv.bias"][:, None]
        total = 0
        for block, (size, dilations) in enumerate(zip((3, 7), SMALL["resblock_dilation_sizes"])):
            y, name = x, f"resblocks.{2 * stage + block}"
            for index, dilation in enumerate(dilations):
                padding = dilation * (size - 1) // 2
                first = F.leaky_relu(y, 0.1)
                first = F.conv1d(first, *of(f"{name}.convs1.{index}"), padding=padding, dilation=dilation)
                y = y + F.conv1d(F.leaky_relu(first, 0.1), *of(f"{name}.convs2.{index}"), padding=(size - 1) // 2)
            total = total + y
        x = total / 2
    return torch.tanh(F.conv1d(F.leaky_relu(x), *of("conv_post"), padding=3))[0, 0]


@pytest.mark.parametrize("form", ["generator", "state_dict"])
def test_the_wave_is_that_of_the_network_written_out(weights, tmp_path, form):
    content = {form: {f"generator.{name}" if form == "state_dict" else name: x for name, x in weights.items()}}
    vocoder = load_vocoder(write_files(tmp_path, content), CPU)
    mel, f0 = torch.randn(6, 40), 100 + 300 * torch.rand(40)
    f0[10:20] = 0
    torch.testing.assert_close(vocoder.synthesize(mel, f0), by_hand(weights, mel, f0), atol=2e-5, rtol=1e-4)


def test_the_tensors_have_the_names_and_shapes_of_published_files(weights):
    assert not [name for name in weights if name.startswith(("m_source", "noise_convs"))]
    assert weights["source_conv.weight"].shape == (32 // 4, 1, 1) and weights["source_conv.bias"].shape == (32 // 4,)


def test_windows_give_what_the_whole_gives():
    torch.manual_seed(0)
    generator = build_vocoder(VocoderConfig.model_validate(SMALL)).eval()
    mel, f0 = torch.randn(1, 6, 200), 200 + 100 * torch.rand(1, 200)
    with torch.no_grad():
        wanted = generator(mel, f0)
        torch.testing.assert_close(generator.in_windows(mel, f0, window=2 * generator.reach + 9), wanted)


def test_the_phase_is_exact_after_an_hour():
    source = SineSource(5512.5, 64)
    wave = source(torch.full((1, 300_000), 5512.5 / 64))  # one turn in a frame
    torch.testing.assert_close(wave[0, 0, :64], wave[0, 0, -64:], atol=1e-5, rtol=0)


def test_noise_in_the_source_is_refused_by_name(weights, tmp_path):
    path = write_files(tmp_path, {"generator": weights}, noise_sigma=0.1)
    with pytest.raises(ConfigError, match=r"config\.json: noise_sigma is 0\.1"):
        load_vocoder(path, CPU)
    assert load_vocoder_config(write_files(tmp_path, {}, mini_nsf=False, noise_sigma=0.1).parent / "config.json")


class EnvelopeVocoder(NsfHifiganVocoder):
    """What a perfect vocoder of this kind does: harmonics of the F0, as loud as the mel is at their frequencies."""

    audio, device = AudioSpec(16000, 1024, 256, 1024, 80, 0, 8000), CPU

    def __init__(self):
        pass

    def synthesize(self, mel: torch.Tensor, f0: torch.Tensor, needed: slice | None = None) -> torch.Tensor:
        import librosa

        f0, hop = f0[: mel.shape[1]].numpy().astype(np.float64), self.audio.hop_length
        centres = librosa.mel_frequencies(82, fmin=0, fmax=8000)
        # Slaney's filters are as wide as they are low: their sum over a flat spectrum is one.
        level = np.exp(mel.numpy().mean(1))
        phase = 2 * np.pi * np.cumsum(np.repeat(f0, hop)) / 16000
        harmonics = range(1, int(7500 / f0.max()))
        wav = sum(np.interp(k * f0.mean(), centres[1:-1], level) * np.sin(k * phase) for k in harmonics)
        return torch.from_numpy(0.3 * wav / np.abs(wav).max()).float()


def vowel(hz: float, formants: tuple[float, ...], rate: int = 16000, seconds: float = 1.0) -> np.ndarray:
    """Pulses through resonances: an [a] sung at that pitch."""
    from scipy.signal import lfilter

    wav = np.zeros(int(rate * seconds))
    wav[(np.arange(int(hz * seconds)) * rate / hz).astype(int)] = 1
    for formant in formants:
        radius, angle = math.exp(-math.pi * 90 / rate), 2 * math.pi * formant / rate
        wav = lfilter([1], [1, -2 * radius * math.cos(angle), radius**2], wav)
    return (0.3 * wav / np.abs(wav).max()).astype(np.float32)


def measure(wav: np.ndarray) -> tuple[float, list[float]]:
    """Median pitch, and the first two formants in the middle, by praat."""
    sound = parselmouth.Sound(wav.astype(np.float64), 16000)
    pitch = sound.to_pitch(pitch_ceiling=500).selected_array["frequency"]
    formants = sound.to_formant_burg(max_number_of_formants=5, maximum_formant=5000)
    times = np.linspace(0.3, 0.7, 20)
    return np.median(pitch[pitch > 0]), [np.median([formants.get_value_at_time(n, t) for t in times]) for n in (1, 2)]


@pytest.mark.parametrize("formant_key", [7, -5])
def test_the_enhancer_moves_the_pitch_and_not_the_formants(formant_key):
    wav, ratio = vowel(150, (750, 1400, 2600, 3600)), 2 ** (formant_key / 12)
    f0 = torch.full((len(wav) // 256,), 150.0)
    enhancer = NsfHifiganEnhancer(EnvelopeVocoder(), 16000, 256)
    made = enhancer.enhance(torch.from_numpy(wav), f0 * ratio).numpy()
    (pitch, before), (moved, after) = measure(wav), measure(made)
    assert moved / pitch == pytest.approx(ratio, rel=0.01)
    # Harmonics 100 to 225 Hz apart show a formant to half their distance.
    np.testing.assert_allclose(after, before, atol=115)
