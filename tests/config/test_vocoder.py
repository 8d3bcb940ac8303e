"""Which mel a vocoder wants, and whether its frames are the model's."""

import json

import pytest

from modules.config.audio import AudioSpec
from modules.config.vocoder import PUBLISHED_MEL, find_mel, require_same_frames
from modules.errors import ConfigError


def test_the_mel_comes_from_the_vocoders_own_config(tmp_path, monkeypatch):
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    assert find_mel("pretrain/nsf_hifigan/model") == (PUBLISHED_MEL, None)
    config = tmp_path / "pretrain" / "nsf_hifigan" / "config.json"
    config.parent.mkdir(parents=True)
    values = {"sampling_rate": 44100, "num_mels": 80, "n_fft": 1024, "win_size": 1024, "hop_size": 512, "fmin": 20}
    values |= {"fmax": 12000, "upsample_rates": [8, 8, 8], "upsample_kernel_sizes": [16, 16, 16]}
    values |= {"upsample_initial_channel": 8, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]]}
    config.write_text(json.dumps(values), "utf-8")
    assert find_mel("pretrain/nsf_hifigan/model") == (AudioSpec(44100, 1024, 512, 1024, 80, 20, 12000), config)


@pytest.mark.parametrize(
    "mel, text",
    [
        (AudioSpec(48000, 2048, 512, 2048, 128, 40, 16000), "sampling rate 44100, but v.json has 48000"),
        (AudioSpec(44100, 2048, 256, 2048, 128, 40, 16000), "hop length 512, but v.json has 256"),
    ],
)
def test_a_vocoder_with_other_frames_is_refused(mel, text):
    require_same_frames(PUBLISHED_MEL, "c.json", PUBLISHED_MEL, "v.json")
    with pytest.raises(ConfigError) as caught:
        require_same_frames(PUBLISHED_MEL, "c.json", mel, "v.json")
    assert f"c.json has the {text}" in str(caught.value)
