"""The voice that ships: whole, small, of the preset's shape, following the F0 it is given, and a base to train on."""

import json
import runpy
import shutil

import numpy as np
import pytest
import soundfile
import torch

import inference_main
from models import build_synthesizer, load_synthesizer
from modules.audio.io import resample
from modules.audio.loudness import frame_volume
from modules.config.audio import AudioSpec
from modules.config.io import load_config, parse_config
from modules.config.presets import preset_values
from modules.encoders.align import align_units
from modules.encoders.base import build_encoder
from modules.f0.base import build_predictor
from modules.pretrained.find import CODE_ROOT
from modules.training.distributed import Group
from modules.training.resume import load_start
from modules.training.step import VitsStep
from modules.weights.checkpoint import check_whole, load_weights
from vdecoder.discriminators import MultiPeriodDiscriminator
from vdecoder.nsf_hifigan import GeneratorSpec, NSFGenerator

BASE = CODE_ROOT / "pretrain/base-small"
CPU = torch.device("cpu")
SPEAKERS = (
    "be_ksenya_f",
    "bg_krasimir_m",
    "it_carlo_m_16k",
    "ro_tabbytha_f",
    "ru_edwin_m",
    "ru_ivrvoice_f_16k",
    "ru_nsh_m_16k",
)


@pytest.fixture(scope="module")
def config():
    return load_config(BASE / "config.json")


def test_both_files_are_whole_and_small_and_the_card_credits_every_voice(config):
    sizes = [(BASE / name).stat().st_size for name in ("G_0.pth", "D_0.pth")]
    assert sum(sizes) <= 20e6
    for name in ("G_0.pth", "D_0.pth"):
        check_whole(BASE / name)
    card = load_weights(BASE / "G_0.pth")["card"]
    text = (BASE / "README.md").read_text("utf-8")
    assert tuple(config.spk) == SPEAKERS and sorted(config.spk.values()) == list(range(7))
    for credit in (
        "Ksenya Buraya",
        "Krasimir Petkov",
        "Carlo Flora",
        "Tabbytha",
        "Edwin Veber",
        "Maxim Topal",
        "Nickolay V. Shmyrev",
        "GPL-2",
        "CC-BY-3.0",
        "festvox-ru",
    ):
        assert credit in text and credit in card["credits"] + card["licence"], credit
    assert card["steps"] > 0 and "seed" in text


def test_what_the_preset_makes_fits_it(config):
    wanted = parse_config(preset_values("small", "whisper-ppg-base", 512)).model
    wanted.vol_embedding, wanted.n_speakers = True, 1
    assert wanted.model_dump() == {**config.model.model_dump(), "n_speakers": 1}


def test_a_new_voice_starts_from_it(config, tmp_path):
    values = preset_values("small", "whisper-ppg-base", 512)
    values["model"] |= {"vol_embedding": True, "n_speakers": 2}
    own = parse_config({**values, "spk": {"ro_tabbytha_f": 0, "новая": 1}})
    networks = build_synthesizer(own), MultiPeriodDiscriminator(channels=own.model.discriminator_channels)
    step = VitsStep(*networks, own, CPU)
    state, _ = load_start(tmp_path, step, Group(), BASE)
    vectors = load_weights(BASE / "G_0.pth")["model"]["emb_g.weight"].float()
    assert state.has_base
    torch.testing.assert_close(step.net_g.emb_g.weight[0].detach(), vectors[config.spk["ro_tabbytha_f"]])
    torch.testing.assert_close(step.net_g.emb_g.weight[1].detach(), vectors.mean(0))


@pytest.fixture(scope="module")
def spoken(config):
    """Three seconds of a take of the samples: the predictor, its curve, units and volume."""
    audio = config.audio
    wav, rate = soundfile.read(
        CODE_ROOT / "samples/voices/be_ksenya_f/be_ksenya_f_001.flac", dtype="float32", frames=3 * 44100
    )
    assert rate == audio.sampling_rate
    predictor = build_predictor("pm", audio)
    curve = predictor.predict(wav)
    n_frames = len(curve.f0)
    units = build_encoder("whisper-ppg-base", CPU).encode(resample(wav, rate, 16000))
    units = align_units(units, n_frames, config.data.unit_interpolate_mode)
    volume = frame_volume(torch.from_numpy(wav), audio.hop_length)[:n_frames]
    return predictor, curve, units, volume


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_every_voice_sings_the_pitch_it_is_given(config, spoken, speaker):
    """On real words, at three quarters and four thirds of the voice that speaks them."""
    voice = load_synthesizer(BASE / "G_0.pth", config, CPU)
    predictor, spoken, units, volume = spoken
    for ratio in (0.75, 4 / 3):
        f0, uv = torch.from_numpy(spoken.f0) * ratio, torch.from_numpy(spoken.uv)
        made = predictor.predict(voice.infer(units, f0, uv, config.spk[speaker], volume).wav.numpy())
        both = (spoken.uv > 0) & (made.uv > 0)
        cents = 1200 * np.log2(made.f0[both] / f0.numpy()[both])
        assert both.sum() > 0.3 * (spoken.uv > 0).sum() and np.median(np.abs(cents)) < 50


def test_the_sung_sample_keeps_its_melody(tmp_path, monkeypatch, config):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    shutil.copyfile(CODE_ROOT / "samples/songs/sing_vocadito_14.flac", tmp_path / "raw/песня.flac")
    model = ["-m", str(BASE / "G_0.pth"), "-c", str(BASE / "config.json"), "-n", "песня.flac"]
    speakers = ["be_ksenya_f", "ru_ivrvoice_f_16k"]
    assert (inference_main.main([*model, "-s", *speakers, "-f0p", "fcpe", "-t", "0", "--json"]) or 0) == 0
    source, _ = soundfile.read(tmp_path / "raw/песня.flac", dtype="float32")
    audio = AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)
    predictor = build_predictor("fcpe", audio, device=CPU)
    sung = predictor.predict(source)
    for speaker in speakers:
        made, rate = soundfile.read(tmp_path / f"results/песня.flac_0key_{speaker}_sovits_fcpe.flac", dtype="float32")
        assert rate == 44100 and len(made) == len(source)
        curve = predictor.predict(made)
        both = (sung.uv > 0) & (curve.uv > 0)
        assert both.sum() > 0.5 * (sung.uv > 0).sum(), "more than half of the voiced frames are voiced again"
        correlation = np.corrcoef(np.log(sung.f0[both]), np.log(curve.f0[both]))[0, 1]
        assert correlation > 0.95, json.dumps({speaker: correlation})


def test_a_spoken_clip_becomes_higher_longer_notes():
    repitch = runpy.run_path(str(BASE / "repitch.py"))["repitch"]
    time = np.arange(8000) / 16000
    vowel = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 20)) * np.hanning(8000)
    wav = 0.2 * np.concatenate([np.zeros(4000), vowel, np.zeros(4000)])
    made = repitch(wav, 16000, np.random.default_rng(1))
    assert 1.2 < len(made) / len(wav) < 3, "the vowel, half of the clip, is two to four times as long"
    curve = build_predictor("pm", AudioSpec(16000, 1024, 256, 1024, 80, 0.0, 8000.0)).predict(made.astype(np.float32))
    octaves = np.log2(np.median(curve.f0[curve.uv > 0]) / 130)
    assert 2.5 / 12 < octaves < 12.5 / 12, "and 3 to 12 semitones higher, to the nearest note"


def test_a_wider_decoder_says_the_same_until_it_is_trained():
    widen = runpy.run_path(str(BASE / "widen.py"))["widen"]
    blocks = "1", (3, 5), ((1, 3), (1, 3))
    narrow, wide = (NSFGenerator(6, GeneratorSpec(44100, (4, 2), (8, 4), width, *blocks), 5) for width in (8, 12))
    for parameter in narrow.parameters():  # biases, too, shall not be zero
        parameter.data += 0.1 * torch.rand_like(parameter)
    widen(narrow, wide)
    x, f0, g = torch.randn(2, 6, 30), torch.full((2, 30), 220.0), torch.randn(2, 5, 1)
    torch.manual_seed(0)
    expected = narrow(x, f0, g)
    torch.manual_seed(0)
    made = wide(x, f0, g)
    torch.testing.assert_close(made, expected)
    made.square().sum().backward()
    for conv in (wide.resblocks[0].convs1[0], wide.conv_post):  # where old channels listen to new ones, they learn
        old = slice(0, conv.out_channels * 2 // 3 or 1)
        assert (conv.weight_v[old, -1] == 0).all() and (conv.weight_v.grad[old, -1] != 0).all()
