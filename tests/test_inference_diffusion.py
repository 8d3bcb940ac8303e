"""Conversion with diffusion and the enhancer, from files to files: small real networks, a stand-in for the encoder."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from signals import sung
from tiny_diffusion import diffusion_config, make_vocoder_files
from tiny_training import SMALL_DECODER
from tiny_voices import tiny_config

import assemble
import inference_main
from diffusion.gaussian import GaussianDiffusion
from diffusion.unit2mel import build_unit2mel
from models import SynthesizerTrn, build_synthesizer
from modules.audio.io import read
from modules.config.diffusion import load_diffusion_config, save_diffusion_config
from modules.config.io import save_config
from modules.errors import CheckpointError, ConfigError, MissingWeights, UsageError
from modules.weights.checkpoint import load_weights, save_weights
from vdecoder.mel_vocoder import NsfHifiganVocoder

DIFFUSION = Path("logs/44k/diffusion")
FLAGS = ["-n", "song.wav", "-s", "bass", "-f0p", "dio", "-d", "cpu", "-m", "logs/44k/G_1.pth"]


class FakeEncoder:
    """Loudness of each 20 ms, 256 times over; counts its calls."""

    name, dim, sampling_rate, hop_length = "vec256l9", 256, 16000, 320
    heard: list[np.ndarray]

    def __init__(self):
        self.heard = []

    def encode(self, wav):
        self.heard.append(wav)
        n = max(1, len(wav) // 320)
        frames = np.resize(wav, n * 320).reshape(n, 320)
        return torch.from_numpy(np.sqrt((frames**2).mean(axis=1))).float()[None].repeat(256, 1)


@pytest.fixture
def encoder(monkeypatch):
    made = FakeEncoder()
    monkeypatch.setattr(assemble, "build_encoder", lambda *_: made)
    monkeypatch.setattr(inference_main, "require_parts", lambda *names, **named: None)
    return made


@pytest.fixture
def workspace(tmp_path, monkeypatch, encoder):
    """A voice, a diffusion model, a vocoder and a song with a long silence in it."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = tiny_config({**SMALL_DECODER, "ssl_dim": 256, "speech_encoder": "vec256l9"})
    (tmp_path / "raw").mkdir()
    DIFFUSION.mkdir(parents=True)
    save_config(config, "logs/44k/config.json")
    save_weights("logs/44k/G_1.pth", {"model": build_synthesizer(config).state_dict()})
    save_diffusion(tmp_path)
    make_vocoder_files(tmp_path / "pretrain/nsf_hifigan")
    write_song(1.5, 0.5)
    return tmp_path


def write_song(*seconds: float) -> None:
    """Two tones of so many seconds with a pause between them; from 5 s on, the first is a segment of its own."""
    first, second = (sung(np.full(int(n * 44100), f0), 44100) for n, f0 in zip(seconds, (220.0, 330.0)))
    soundfile.write("raw/song.wav", np.concatenate([first, np.zeros(44100), second]), 44100)


def save_diffusion(folder: Path, spk=None, data=None, **model) -> None:
    config = diffusion_config({"n_layers": 1, **model})
    config.data.encoder, config.data.encoder_out_channels = "vec256l9", 256
    for key, value in (data or {}).items():
        setattr(config.data, key, value)
    config.spk = {"alto": 0, "bass": 1} if spk is None else spk
    save_diffusion_config(config, DIFFUSION / "config.yaml")
    network = build_unit2mel(config, 128)
    torch.nn.init.normal_(network.decoder.denoise_fn.output_projection.weight, std=0.01)
    save_weights(DIFFUSION / "model_1.pt", {"global_step": 1, "model": network.state_dict()})


def convert(*flags: str) -> np.ndarray:
    before = set(Path("results").glob("[!.]*")) if Path("results").is_dir() else set()
    assert inference_main.main([*FLAGS, *flags]) == 0
    (result,) = set(Path("results").glob("[!.]*")) - before
    wav, rate = read(result)
    assert rate == 44100 and len(wav) == soundfile.info("raw/song.wav").frames and np.isfinite(wav).all()
    result.rename(Path("results").parent / result.name)
    return wav


def test_shallow_diffusion_has_its_name_its_length_and_another_sound(workspace, encoder):
    plain, refined = convert(), convert("-shd", "-ks", "20")
    assert Path("song.wav_0key_bass_sovdiff_dio.flac").is_file()
    assert np.abs(plain - refined).max() > 0.01 and np.abs(refined).max() > 1e-3
    assert np.array_equal(refined, convert("-shd", "-ks", "20", "-dm", "logs/44k/diffusion/model_1.pt")), "it repeats"


@pytest.mark.parametrize(("precision", "denoiser"), [("auto", torch.float32), ("bf16", torch.bfloat16)])
def test_auto_takes_bf16_for_all_but_the_denoiser(workspace, monkeypatch, precision, denoiser):
    seen, make = [], assemble.DiffusionRefiner
    monkeypatch.setattr(assemble, "computes_bf16", lambda device: True)
    monkeypatch.setattr(assemble, "DiffusionRefiner", lambda *parts: seen.extend(parts[:2]) or make(*parts))
    convert("-shd", "--precision", precision)
    network, vocoder = seen
    assert network.decoder.denoise_fn.input_projection.weight.dtype == denoiser
    assert vocoder.generator.conv_pre.weight.dtype == torch.bfloat16


def test_pure_diffusion_needs_no_voice_model(workspace):
    Path("logs/44k/G_1.pth").unlink()
    Path("logs/44k/config.json").unlink()
    convert("-od")
    assert Path("song.wav_0key_bass_diff_dio.flac").is_file()


def test_the_segments_of_a_song_are_refined_together(workspace, monkeypatch):
    write_song(6, 2)
    batches = []
    original = GaussianDiffusion.sample

    def counted(self, condition, *rest, **options):
        batches.append(len(condition))
        return original(self, condition, *rest, **options)

    monkeypatch.setattr(GaussianDiffusion, "sample", counted)
    monkeypatch.setattr("diffusion.refine.CPU_FRAMES", 2048)
    together = convert("-shd", "-ks", "20")
    monkeypatch.setattr("diffusion.refine.CPU_FRAMES", 1)
    alone = convert("-shd", "-ks", "20")
    assert batches == [2, 1, 1]
    assert np.abs(together - alone).max() < 1e-3


def test_second_encoding_hears_what_the_voice_model_sang(workspace, encoder):
    convert("-shd", "-ks", "20")
    once = len(encoder.heard)
    convert("-shd", "-ks", "20", "-se")
    assert len(encoder.heard) == once + 2 * once
    source, sung_again = encoder.heard[once], encoder.heard[once + 1]
    n = min(len(source), len(sung_again))
    assert np.abs(source[:n] - sung_again[:n]).max() > 0.01


def test_the_enhancer_changes_the_sound_and_its_key_changes_it_again(workspace):
    plain, enhanced, lower = convert(), convert("-eh"), convert("-eh", "-eak", "6")
    assert np.abs(plain - enhanced).max() > 0.1
    assert np.abs(enhanced - lower).max() > 1e-4, "an untrained vocoder sings the pitch whatever it hears"


@pytest.mark.parametrize("flags", [["-shd", "-ks", "5"], ["-od"], ["-eh"]])
def test_the_vocoder_makes_a_part_of_the_transposition(workspace, monkeypatch, flags):
    flags = [*flags, "-t", "12", "--formant_key", "7"]
    with pytest.raises(MissingWeights, match=r"--formant_key needs.*download\.py pc-nsf-hifigan"):
        convert(*flags)
    folder = workspace / "pretrain/pc_nsf_hifigan"
    make_vocoder_files(folder, mini_nsf=True).rename(folder / "model.ckpt")
    pitches, voice, vocoder = {"voice": [], "vocoder": []}, SynthesizerTrn.infer, NsfHifiganVocoder.synthesize
    record = {"voice": lambda *a: pitches["voice"].append(a[2].max()) or voice(*a)}
    record["vocoder"] = lambda self, mel, f0, *a: pitches["vocoder"].append(f0.max()) or vocoder(self, mel, f0, *a)
    monkeypatch.setattr(SynthesizerTrn, "infer", record["voice"])
    monkeypatch.setattr(NsfHifiganVocoder, "synthesize", record["vocoder"])
    convert(*flags)
    highest = float(max(pitches["vocoder"]))
    assert highest == pytest.approx(660, rel=0.02)
    assert flags[0] == "-od" or highest / float(max(pitches["voice"])) == pytest.approx(2 ** (7 / 12))


def test_a_formant_key_alone_is_said_to_have_no_effect(workspace, capsys):
    convert("--formant_key", "3")
    assert "--formant_key has no effect without -shd, -od or -eh" in capsys.readouterr().err


def test_what_is_ignored_is_said(workspace, capsys):
    convert("-shd", "-ks", "5", "-eh")
    assert "-eh has no effect with diffusion" in capsys.readouterr().err
    convert("-od", "-shd", "-se", "-ks", "7", "-a")
    said = capsys.readouterr().err
    for text in ("-shd has no effect with -od", "-se has", "-ks has", "-a has", "-m and -c have"):
        assert text in said


@pytest.mark.parametrize("k_step", ["0", "101", "-3"])
def test_steps_that_were_not_trained_are_refused_with_the_range(workspace, k_step):
    with pytest.raises(UsageError, match=rf"-ks/--k_step is {k_step};.*between 1 and 100"):
        convert("-shd", "-ks", k_step)


def test_a_shallow_model_cannot_start_from_noise(workspace):
    save_diffusion(workspace, k_step_max=30)
    with pytest.raises(UsageError, match=r"has learnt 30 of 100 noise levels.*Use it with -shd"):
        convert("-od")
    with pytest.raises(UsageError, match="between 1 and 30"):
        convert("-shd", "-ks", "50")
    convert("-shd", "-ks", "30")


def test_every_tiny_number_of_steps_works(workspace):
    for k_step in ("1", "3", "19"):
        convert("-shd", "-ks", k_step)


@pytest.mark.parametrize("method", ["ddpm", "ddim", "pndm", "dpm-solver", "dpm-solver++", "unipc", None])
def test_every_sampler_of_the_config_works(workspace, method):
    config = load_diffusion_config(DIFFUSION / "config.yaml")
    config.infer.method = method
    save_diffusion_config(config, DIFFUSION / "config.yaml")
    convert("-shd", "-ks", "20")


def test_parts_that_do_not_go_together_are_named_on_both_sides(workspace):
    cases = [
        ({"data": {"encoder": "vec768l12"}}, ConfigError, r"data.encoder is vec768l12.*speech_encoder.*is vec256l9"),
        ({"data": {"encoder_out_channels": 7}}, ConfigError, r"encoder_out_channels is 7.*ssl_dim.*is 256"),
        ({"data": {"sampling_rate": 32000}}, ConfigError, r"sampling rate 32000.*nsf_hifigan.*44100"),
        ({"spk": {"nobody": 0, "other": 1}}, ConfigError, r"it has nobody, other, the voice has alto, bass"),
        ({"spk": {"alto": 0}}, UsageError, r"diffusion model has no speaker 'bass'.*It has: alto"),
    ]
    for changes, error, message in cases:
        save_diffusion(workspace, **changes)
        with pytest.raises(error, match=message):
            convert("-shd")
    save_diffusion(workspace)
    make_vocoder_files(workspace / "pretrain/nsf_hifigan", num_mels=80)
    with pytest.raises(CheckpointError, match=r"input_projection.weight is \[16, 128, 1\].*\[16, 80, 1\].*vocoder"):
        convert("-shd")


def test_speakers_are_matched_by_name_or_else_by_number(workspace):
    for spk, wanted in (({"bass": 0, "alto": 1}, {"alto": 1, "bass": 0}), ({}, {"alto": 0, "bass": 1})):
        save_diffusion(workspace, spk=spk)
        config = load_diffusion_config(DIFFUSION / "config.yaml")
        diffusion = assemble.DiffusionRequest(DIFFUSION / "model_1.pt", DIFFUSION / "config.yaml", config)
        voice = assemble.read_voice_config(Path("logs/44k/config.json"))
        request = assemble.VoiceRequest(Path("logs/44k/G_1.pth"), voice, "dio", device="cpu", diffusion=diffusion)
        assert assemble.load_converter(request).pipeline.refiner_speakers == wanted


def test_missing_files_are_named_with_what_makes_them(workspace):
    with pytest.raises(CheckpointError, match=r"-dm.*gone\.pt: no such file. There: logs/44k/diffusion/model_1.pt"):
        convert("-shd", "-dm", "logs/44k/diffusion/gone.pt")
    with pytest.raises(UsageError, match=r"-dc.*none\.yaml: no such file.*train_diff.py"):
        convert("-shd", "-dc", "none.yaml")
    Path("pretrain/nsf_hifigan/model").unlink()
    for flag in ("-shd", "-od", "-eh"):
        with pytest.raises(MissingWeights, match=r"nsf_hifigan/model.*download.py nsf-hifigan"):
            convert(flag)


def test_an_unknown_sampler_is_answered_with_the_known_ones(workspace):
    config = load_diffusion_config(DIFFUSION / "config.yaml")
    config.infer.method = "euler"
    save_diffusion_config(config, DIFFUSION / "config.yaml")
    with pytest.raises(ConfigError, match=r"infer.method: unknown sampler 'euler'. Known: ddim, ddpm.*unipc"):
        convert("-shd")


@pytest.mark.parametrize("kind", ["-shd", "-od"])
@pytest.mark.parametrize("spk", [{"alto": 0, "bass": 1}, {"bass": 0, "alto": 1}])
def test_a_mix_of_one_voice_is_that_voice_and_others_are_heard(workspace, kind, spk):
    """Also where the diffusion model has other ids than the voice; so-vits-svc could not mix with diffusion."""
    save_diffusion(workspace, spk=spk)
    for path, name in (("logs/44k/G_1.pth", "emb_g.weight"), (DIFFUSION / "model_1.pt", "spk_embed.weight")):
        content = load_weights(path)
        content["model"] = {**content["model"], name: 50 * content["model"][name]}  # untrained voices sound alike
        save_weights(path, content)
    flags = [kind, "-ks", "100"]  # all steps of the tiny model: after fewer, its decoder hides what differs
    alone = convert(*flags, "-s", "bass")
    only = convert(*flags, "--mix", "bass=1")
    mixed = convert(*flags, "--mix", "bass=1", "alto=2")
    assert np.abs(only - alone).max() <= 2 / 32767
    assert np.abs(mixed - alone).max() > 4 / 32767


@pytest.mark.parametrize(
    ("flags", "loading", "song"),
    [
        (["-shd", "-ks", "3", "-se"], {"shallow_diffusion": True, "k_step": 3}, {"second_encoding": True}),
        (["-od"], {"only_diffusion": True}, {}),
    ],
)
def test_a_program_gets_the_command_lines_file(workspace, flags, loading, song):
    write_song(0.3, 0.1)
    assert inference_main.main([*FLAGS, *flags]) == 0
    voice = assemble.load_voice("logs/44k/G_1.pth", f0_predictor="dio", device="cpu", **loading)
    voice.convert_file("raw/song.wav", "mine.flac", speaker="bass", **song)
    (theirs,) = Path("results").glob("*.flac")
    assert Path("mine.flac").read_bytes() == theirs.read_bytes()
