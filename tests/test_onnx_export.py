"""Exported graphs compute what torch computes, at every length, and convert as checkpoints do."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from signals import sung

import assemble
import inference_main
import inspect_model
import onnx_export
from models import INFERENCE_SEED, Voice, build_synthesizer, load_synthesizer
from modules.audio.io import read
from modules.config.io import parse_config, save_config
from modules.config.schema import Config
from modules.contracts import Draws
from modules.data.pitch import voice_histograms
from modules.device import seeded
from modules.errors import CheckpointError, ConfigError, UsageError, UserError
from modules.f0.histogram import PitchHistogram
from modules.inference.onnx_voice import OnnxVoice
from modules.weights import onnx as onnx_files
from modules.weights.card import read_card
from modules.weights.checkpoint import load_weights, save_weights
from onnx_export import example_chunk

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

CPU = torch.device("cpu")
MODEL = {
    "inter_channels": 8,
    "hidden_channels": 8,
    "filter_channels": 16,
    "n_layers": 2,
    "gin_channels": 4,
    "ssl_dim": 6,
    "n_speakers": 3,
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
    "n_flow_layer": 2,
    "speech_encoder": "vec768l12",
}


def voice_config(spk=("alto",), **model) -> Config:
    return parse_config({"model": {**MODEL, **model}, "spk": list(spk) if isinstance(spk, tuple) else spk})


def save_voice(folder: Path, config: Config, model: str = "G_1.pth") -> None:
    """A voice whose every weight counts, with its config."""
    torch.manual_seed(2)
    network = build_synthesizer(config)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    save_config(config, folder / "config.json")
    save_weights(folder / model, {"model": network.state_dict()})


def load_voice(config: Config) -> Voice:
    return load_synthesizer("G_1.pth", config, CPU)


def export(*flags: object) -> None:
    assert onnx_export.main([str(flag) for flag in flags]) == 0


def shapes(path: Path) -> list[tuple]:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [(given.name, given.type, given.shape) for given in [*session.get_inputs(), *session.get_outputs()]]


def largest_difference(
    voice: Voice, path: Path, config: Config, n_frames: int, mixed: bool = False, draws: Draws | None = None
) -> float:
    given = {**example_chunk(config, n_frames, mixed), "draws": draws}
    found = OnnxVoice(path, config, CPU, INFERENCE_SEED).infer(**given)
    wanted = voice.infer(**given)
    assert found.wav.shape == wanted.wav.shape == (n_frames * 512,)
    assert wanted.wav.abs().max() > 0.1
    assert torch.equal(found.f0, wanted.f0)
    return (found.wav - wanted.wav).abs().max().item()


def noise_of_a_stream(voice: Voice, n_frames: int) -> Draws:
    """Noise of its own, and the start phases that a graph draws in any case."""
    with seeded(CPU, INFERENCE_SEED):
        torch.randn(1, voice.latent_channels, n_frames)
        phases = torch.rand(9) * (torch.arange(9) > 0)
    return Draws(torch.randn(voice.latent_channels, n_frames), phases, torch.randn(n_frames * 512, 9))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with nothing in it and no weights beside the code."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A folder with a voice of one speaker and its graph, for reading."""
    folder = tmp_path_factory.mktemp("exported")
    save_voice(folder, voice_config())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        export("-m", "G_1.pth")
    return folder


VARIANTS = {
    "one speaker": {"unvoiced_source": True},
    "snake": {"vocoder_name": "nsf-snake-hifigan"},
    "mix with volume": {"spk": {"tenor": 2, "alto": 0}, "vol_embedding": True},  # ids out of order, one without a name
    "transformer flow": {"use_transformer_flow": True, "flow_share_parameter": True},
    "depthwise": {"use_depthwise_conv": True, "clamp_f0_high": True},
}


RARE = ("snake", "depthwise")
VARIANT = [pytest.param(name, marks=pytest.mark.slow) if name in RARE else name for name in VARIANTS]


@pytest.mark.parametrize("variant", VARIANT)
def test_a_graph_with_all_inputs_sings_what_the_checkpoint_sings(folder, variant):
    config = voice_config(**VARIANTS[variant])
    save_voice(folder, config)
    voice = load_voice(config)
    export("-m", "G_1.pth", "-o", "voice.onnx", "--source_inputs")
    for n_frames in (1, 13, 600):  # 600: in torch more than one block of queries and more than one window
        assert largest_difference(voice, Path("voice.onnx"), config, n_frames) < 1e-4
    noise = noise_of_a_stream(voice, 13)
    assert largest_difference(voice, Path("voice.onnx"), config, 13, draws=noise) < 1e-4
    if len(config.spk) > 1:
        assert largest_difference(voice, Path("voice.onnx"), config, 50, mixed=True) < 1e-4


def test_inputs_have_so_vits_svcs_names_order_types_and_free_lengths(exported):
    assert shapes(exported / "G_1.onnx") == [
        ("c", "tensor(float)", ["batch", "units", 6]),
        ("f0", "tensor(float)", [1, "frames"]),
        ("mel2ph", "tensor(int64)", [1, "frames"]),
        ("uv", "tensor(float)", [1, "frames"]),
        ("noise", "tensor(float)", [1, 8, "frames"]),
        ("sid", "tensor(int64)", [1]),
        ("audio", "tensor(float)", [1, 1, "samples"]),
    ]
    opsets = onnx.load(exported / "G_1.onnx").opset_import
    assert [(entry.domain, entry.version) for entry in opsets] == [("", 17)]


def test_a_mix_has_weights_per_frame_and_loudness_comes_last(folder):
    save_voice(folder, voice_config(("alto", "bass"), vol_embedding=True))
    export("-m", "G_1.pth", "--source_inputs", "--opset", 18)
    found = shapes(Path("G_1.onnx"))
    assert [name for name, _, _ in found] == "c f0 mel2ph uv noise sid vol source_phases source_noise audio".split()
    assert found[5] == ("sid", "tensor(float)", ["frames", 2])
    assert found[6] == ("vol", "tensor(float)", [1, "frames"])
    assert onnx.load("G_1.onnx").opset_import[0].version == 18


def test_the_voices_card_and_the_notes_it_sings_go_along(folder, capsys):
    save_voice(folder, voice_config())
    content = load_weights("G_1.pth")
    notes = PitchHistogram.from_curve(np.full(500, 220.0), np.ones(500)).to_plain()
    save_weights("G_1.pth", {**content, "card": {"licence": "CC0", "name": "älto", "f0_histograms": {"alto": notes}}})
    export("-m", "G_1.pth")
    assert read_card("G_1.onnx") == read_card("G_1.pth")
    capsys.readouterr()
    assert inspect_model.main(["G_1.onnx", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "voice model as an ONNX graph" and report["card"]["licence"] == "CC0"
    assert voice_histograms(Path("G_1.onnx")).keys() == {"alto"}


def test_mel2ph_counts_units_from_one_and_zero_is_silence(folder):
    config = voice_config()
    save_voice(folder, config)
    voice = load_voice(config)
    export("-m", "G_1.pth", "--source_inputs")
    units, mel2ph = torch.randn(6, 3), [3, 0, 1, 1, 2, 0]
    given = {**example_chunk(config, 6), "noise_scale": 0.0}
    given["units"] = torch.nn.functional.pad(units, (1, 0))[:, mel2ph]
    with torch.random.fork_rng():
        torch.manual_seed(INFERENCE_SEED)
        torch.randn(1, 8, 6)
        phases, noise = torch.rand(1, 9), torch.randn(1, 6 * 512, 9)
    feed = {"c": units.T[None], "f0": given["f0"][None], "mel2ph": torch.tensor([mel2ph]), "uv": given["uv"][None]}
    feed |= {"noise": torch.zeros(1, 8, 6), "sid": torch.zeros(1).long(), "source_phases": phases}
    feed["source_noise"] = noise
    wav = runtime.InferenceSession("G_1.onnx").run(None, {name: value.numpy() for name, value in feed.items()})[0]
    np.testing.assert_allclose(wav[0, 0], voice.infer(**given).wav.numpy(), atol=1e-4)


def test_the_usual_graph_draws_from_a_seed_and_the_check_accepts_it(folder, caplog):
    config = voice_config(("alto", "bass"))
    save_voice(folder, config)
    with caplog.at_level(logging.INFO):
        export("-m", "G_1.pth", "--check")
    assert "40 frames, mixed speakers: differs from torch by" in caplog.text and "mel spectrum" in caplog.text
    given = example_chunk(config, 20)
    first, second = (OnnxVoice(Path("G_1.onnx"), config, CPU, 1).infer(**given).wav for _ in range(2))
    assert torch.equal(first, second), "the seed is in the file"


def test_the_check_refuses_another_voice(folder, caplog, monkeypatch):
    save_voice(folder, voice_config())
    whole = assemble.load_synthesizer

    def load(*args):
        voice = whole(*args)
        infer = voice.infer
        voice.infer = lambda **given: infer(**{**given, "f0": given["f0"] * 1.01})
        return voice

    monkeypatch.setattr("models.load_synthesizer", load)
    assert onnx_export.main(["-m", "G_1.pth", "--check", "--source_inputs"]) == 1
    assert "too much" in caplog.text


def test_upstreams_command_reads_and_writes_upstreams_files(folder):
    spk = ("alto", "bass")
    save_voice(Path("checkpoints/choir"), voice_config(spk, ssl_dim=256, speech_encoder="vec256l9"), "model.pth")
    export("-n", "choir")
    assert Path("checkpoints/choir/choir_SoVits.onnx").is_file()
    assert json.loads(Path("checkpoints/choir.json").read_text("utf-8")) == {
        "Folder": "choir",
        "Name": "choir",
        "Type": "SoVits",
        "Rate": 44100,
        "Hop": 512,
        "Hubert": "vec-256-layer-9",
        "SoVits4": True,
        "SoVits3": False,
        "CharaMix": True,
        "Volume": False,
        "HiddenSize": 256,
        "Characters": ["alto", "bass"],
        "Cluster": "",
    }


@pytest.mark.parametrize(
    ("encoder", "width", "wanted"),
    [("vec768l12", 768, "vec-768-layer-12"), ("vec768l12-onnx", 768, "vec-768-layer-12"), ("wavlmbase+", 768, None)],
)
def test_the_descriptor_names_the_encoders_file(encoder, width, wanted):
    described = onnx_export.describe(voice_config(ssl_dim=width, speech_encoder=encoder, vol_embedding=True), "x")
    assert described["Hubert"] == wanted or encoder
    assert described["HiddenSize"] == width and described["Volume"] and not described["CharaMix"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-m", "gone.pth"], "gone.pth"),
        (["-n", "gone"], "checkpoints/gone"),
        (["-m", "G_1.pth", "-n", "x"], "-n/--model_name and -m/--model are different things"),
        (["--diffusion", "a.pt", "--encoder", "x"], "--diffusion and --encoder"),
        (["--encoder", "vec768l12", "--source_inputs"], "--source_inputs does not belong to --encoder"),
        (["-c", "config.json"], "-c/--config does not belong"),
        (["-m", "G_1.pth", "--opset", "16"], "--opset is 16; it must lie between 17 and 20"),
        (["-m", "G_1.pth", "-o", "there.onnx"], "there.onnx: already exists"),
        (["-m", "G_1.pth", "-o", "voice.pth"], "voice.pth"),
        (["-m", "G_1.pth", "-o", "config.onnx", "--overwrite"], "config.json: is the input"),
        (["-m", "config.json"], "config"),
        (["--encoder", "nobody"], "unknown speech encoder 'nobody'"),
    ],
)
def test_a_mistake_is_one_line_and_costs_no_file(folder, flags, message):
    save_voice(folder, voice_config())
    Path("there.onnx").write_bytes(b"mine")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=message):
        onnx_export.main(flags)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_only_overwrite_replaces_a_file(folder):
    save_voice(folder, voice_config())
    Path("voice.onnx").write_bytes(b"old")
    export("-m", "G_1.pth", "-o", "voice.onnx", "--overwrite")
    assert len(shapes(Path("voice.onnx"))) == 7


@pytest.mark.parametrize("package, flags", [("onnx", []), ("onnxruntime", ["--check"])])
def test_a_missing_package_is_named_with_what_installs_it(folder, monkeypatch, package, flags):
    save_voice(folder, voice_config())
    known = onnx_files.is_installed
    monkeypatch.setattr(onnx_files, "is_installed", lambda name: name != package and known(name))
    with pytest.raises(UsageError, match=r"needs (the package )?onnx.*pip install -r requirements-extras\.txt"):
        onnx_export.main(["-m", "G_1.pth", *flags])


def test_a_config_without_speakers_is_refused(folder):
    save_voice(folder, voice_config(()))
    with pytest.raises(ConfigError, match="spk names no speaker"):
        onnx_export.main(["-m", "G_1.pth"])


def test_a_graph_and_a_config_that_do_not_fit_are_refused(folder, exported):
    others = {
        "one speaker, but spk names 2": voice_config(("alto", "bass")),
        "6 wide, but model.ssl_dim is 7": voice_config(ssl_dim=7),
        "8 latent channels": voice_config(inter_channels=10),
        "does not take a loudness curve": voice_config(vol_embedding=True),
    }
    for message, config in others.items():
        with pytest.raises(CheckpointError, match=message):
            OnnxVoice(exported / "G_1.onnx", config, CPU, 1)
    Path("bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"bad\.onnx: not a usable ONNX file"):
        OnnxVoice(Path("bad.onnx"), voice_config(), CPU, 1)


def test_the_config_it_was_exported_with_is_the_one_it_sings_with(folder):
    config = voice_config(("alto", "bass"))
    save_voice(folder, config)
    export("-m", "G_1.pth")
    OnnxVoice(Path("G_1.onnx"), voice_config(("Åsa", "bert")), CPU, 1)
    for message, other in {
        "the id of 'alto' was 0, now 1": voice_config({"bass": 0, "alto": 1}),
        "spk: the speakers were alto, bass, now bass, alto": voice_config({"bass": 1, "alto": 0}),
        "model.speech_encoder was 'vec768l12', now 'hubertsoft'": voice_config(
            ("alto", "bass"), speech_encoder="hubertsoft"
        ),
    }.items():
        with pytest.raises(UserError, match=f"is not the config that G_1.onnx was .*{message}"):
            OnnxVoice(Path("G_1.onnx"), other, CPU, 1)
    model = onnx.load("G_1.onnx")  # as before the config went along
    onnx.helper.set_model_props(model, {"card": json.dumps({"speakers": ["bass", "alto"], "sampling_rate": 44100})})
    onnx.save(model, "G_1.onnx")
    with pytest.raises(UserError, match="the speakers were bass, alto, now alto, bass"):
        OnnxVoice(Path("G_1.onnx"), config, CPU, 1)


def test_one_speaker_cannot_be_mixed_and_no_pitch_is_predicted(exported):
    config = voice_config()
    voice, given = OnnxVoice(exported / "G_1.onnx", config, CPU, 1), example_chunk(config, 5)
    with pytest.raises(UsageError, match="one speaker and cannot mix"):
        voice.infer(**{**given, "speaker": torch.ones(1, 5)})
    with pytest.raises(UsageError, match="speaker id 1"):
        voice.infer(**{**given, "speaker": 1})
    with pytest.raises(UsageError, match="leave -a out"):
        voice.infer(**given, predict_f0=True)


class FakeEncoder:
    """Loudness of each 20 ms, 256 times over."""

    name, dim, sampling_rate, hop_length = "vec256l9", 256, 16000, 320

    def encode(self, wav):
        frames = np.resize(wav, (max(1, len(wav) // 320), 320))
        return torch.from_numpy(np.sqrt((frames**2).mean(axis=1))).float()[None].repeat(256, 1)


def test_conversion_sings_with_the_file_as_with_the_checkpoint(folder, monkeypatch):
    monkeypatch.setattr(assemble, "build_encoder", lambda *_: FakeEncoder())
    monkeypatch.setattr(inference_main, "require_parts", lambda *names, **named: None)
    config = voice_config(("alto", "bass"), ssl_dim=256, speech_encoder="vec256l9", vol_embedding=True)
    save_voice(folder, config)
    export("-m", "G_1.pth", "-o", "free.onnx")
    export("-m", "G_1.pth", "-o", "given.onnx", "--source_inputs")
    tone = sung(np.full(44100, 220.0), 44100)
    soundfile.write("song.wav", np.concatenate([tone, np.zeros(22050), tone[:22050]]), 44100)
    flags = ["-n", "song.wav", "-f0p", "dio", "-d", "cpu", "-wf", "wav", "-c", "config.json"]

    def convert(model: str, *more: str) -> np.ndarray:
        assert inference_main.main([*flags, "-m", model, *more]) == 0
        (result,) = Path("results").glob("[!.]*.wav")
        wav, _ = read(result)
        result.unlink()
        return wav

    for who in (("-s", "bass"), ("--mix", "alto=0.7", "bass=0.3")):
        wanted = convert("G_1.pth", *who)
        assert len(wanted) == 2 * 44100 and np.abs(wanted).max() > 0.1
        # 16 bits a sample: steps of 3e-5.
        np.testing.assert_allclose(convert("given.onnx", *who), wanted, atol=1e-4)
        # Breath noise and start phases are others; these voices, hardly trained, let little of them through.
        free = convert("free.onnx", *who)
        assert np.square(free - wanted).mean() < 0.05 * np.square(wanted).mean()
    with pytest.raises(UsageError, match=r"without a pitch decoder.*onnx"):
        inference_main.main([*flags, "-m", "free.onnx", "-s", "bass", "-a"])
    with pytest.raises(UsageError, match="--precision fp16"):
        inference_main.main([*flags, "-m", "free.onnx", "-s", "bass", "--precision", "fp16"])
    with pytest.raises(UsageError, match=r"-t auto: neither free\.onnx"):
        inference_main.main([*flags, "-m", "free.onnx", "-s", "bass", "-t", "auto"])
