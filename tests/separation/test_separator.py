"""Models for separation: files of the real kinds load and separate, all others are refused in one line."""

import copy
import json
import os
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from damage import Payload
from small_separators import RATE, SECONDS, STEMS, write_htdemucs, write_roformer

from modules.errors import UserError
from modules.separation.demucs import SETTINGS
from modules.separation.separator import Separator, load_separator
from modules.separation.spec import Member, SeparatorSpec
from modules.separation.stages import DRY, LEAD, VOCALS, choose_stem
from modules.weights.foreign import load_foreign

CPU = torch.device("cpu")


def noise(seconds=0.3, channels=2, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal((int(seconds * RATE), channels))).astype(np.float32)


def separated(separator, wav, stage=VOCALS, **options):
    return np.concatenate(list(separator.separate(np.array_split(wav, 3), stage, **options)))


def opened(path):
    """The content of a Demucs file, apart from it."""
    return copy.deepcopy(load_foreign(path, SETTINGS))


def save_as_safetensors(path, state, kwargs):
    about = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": json.dumps(kwargs)}
    safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, path, about)


def test_a_demucs_file_loads_and_gives_what_its_network_gives(tmp_path):
    separator = load_separator(write_htdemucs(tmp_path / "a.th"), CPU)
    assert separator.stems == tuple(STEMS) and separator.sampling_rate == RATE
    assert separator.spec.segment == int(SECONDS * RATE) and separator.spec.hop == int(0.75 * separator.spec.segment)
    wav = noise(float(SECONDS))[: separator.spec.segment]
    mean, deviation = wav.mean(), wav.mean(axis=1).std()
    network = separator._members[0].network
    with torch.no_grad():
        expected = network(torch.from_numpy((wav - mean) / deviation).T[None])[0, 3].T.numpy() * deviation
    found = separated(separator, wav, mean=float(mean), deviation=float(deviation))
    assert np.abs(found - expected).max() < 1e-6 and np.abs(found).max() > 1e-4


def test_the_fractions_of_older_and_newer_pythons_and_of_safetensors_are_one(tmp_path):
    content = opened(write_htdemucs(tmp_path / "a.th"))
    kwargs = {name: value for name, value in content["kwargs"].items() if name != "segment"}
    kwargs["segment"] = {"_type": "fraction", "numerator": SECONDS.numerator, "denominator": SECONDS.denominator}
    save_as_safetensors(tmp_path / "a.safetensors", content["state"], kwargs)
    one, other = (load_separator(tmp_path / name, CPU) for name in ("a.th", "a.safetensors"))
    assert one.spec == other.spec and one.stamp != other.stamp
    assert np.array_equal(separated(one, noise()), separated(other, noise()))


@pytest.mark.parametrize("kind", ["mel", "bs"])
def test_a_roformer_loads_with_the_yaml_beside_it_and_gives_what_its_network_gives(kind, tmp_path):
    separator = load_separator(write_roformer(tmp_path / "a.ckpt", kind), CPU)
    assert separator.stems == ("vocals",) and (separator.spec.segment, separator.spec.hop) == (10000, 2500)
    names = torch.load(tmp_path / "a.ckpt", weights_only=True)
    n_layers = len([name for name in names if name.startswith("mask_estimators.0.to_freqs.0.0")])
    assert n_layers == {"mel": 6, "bs": 4}[kind], "weight and bias of each"
    wav = noise()[:10000]
    with torch.no_grad():
        out = separator._members[0].network(torch.from_numpy(wav).T[None])[0].T.numpy()
    assert out.shape == wav.shape, "not cut to whole frames"
    assert np.abs(separated(separator, wav) - out).max() < 1e-6 and np.abs(out).max() > 1e-4


def test_a_yaml_is_found_by_name_or_alone_in_the_folder_or_given(tmp_path):
    path = write_roformer(tmp_path / "a.ckpt")
    stamp = load_separator(path, CPU).stamp
    path.with_suffix(".yaml").rename(tmp_path / "config.yaml")
    assert load_separator(path, CPU).stamp == stamp
    (tmp_path / "other.yaml").write_text("{}")
    with pytest.raises(UserError, match=r"a\.ckpt: a RoFormer needs the yaml .* --config, or save it as a\.yaml"):
        load_separator(path, CPU)
    assert load_separator(path, CPU, tmp_path / "config.yaml").stamp == stamp
    with pytest.raises(UserError, match=r"config\.yaml: is a yaml; name the model, and this one with --config"):
        load_separator(tmp_path / "config.yaml", CPU)


def test_a_model_of_the_music_gives_the_vocals_as_what_is_left(tmp_path):
    wav = noise()
    music = load_separator(write_roformer(tmp_path / "a.ckpt", stem="Instrumental"), CPU)
    same = load_separator(write_roformer(tmp_path / "b.ckpt", stem="vocals"), CPU)
    assert np.abs(separated(music, wav) + separated(same, wav) - wav).max() < 1e-6


def test_several_stems_of_a_roformer_are_told_apart(tmp_path):
    separator = load_separator(write_roformer(tmp_path / "a.ckpt", "bs", num_stems=2), CPU)
    assert separator.stems == ("vocals", "rest") and separated(separator, noise()).shape == noise().shape


def test_a_mono_model_hears_each_channel_alone(tmp_path):
    separator = load_separator(write_roformer(tmp_path / "a.ckpt", stereo=False), CPU)
    wav = noise(channels=3)
    found = separated(separator, wav)
    assert np.abs(found[:, 2:] - separated(separator, wav[:, 2:])).max() < 1e-6


def test_a_bag_takes_each_stem_from_the_models_that_count_for_it(tmp_path):
    one, two = write_htdemucs(tmp_path / "aa-12ab.th", 1), write_htdemucs(tmp_path / "bb.th", 2)
    bag = tmp_path / "bag.yaml"
    bag.write_text(yaml.dump({"models": ["aa", "bb"], "weights": [[1, 1, 1, 0], [1, 0, 0, 1]]}))
    wav = noise()
    assert np.array_equal(separated(load_separator(bag, CPU), wav), separated(load_separator(two, CPU), wav))
    bag.write_text(yaml.dump({"models": ["aa", "bb"]}))
    mean = (separated(load_separator(one, CPU), wav) + separated(load_separator(two, CPU), wav)) / 2
    assert np.abs(separated(load_separator(bag, CPU), wav) - mean).max() < 1e-6
    for content, text in (
        ({"models": ["cc"]}, r"its model cc\.th is not beside it"),
        ({"models": ["../aa"]}, "is no name of a model"),
        ({"models": ["aa", "bb"], "weights": [[1, 1, 1, 0], [1, 0, 0, 0]]}, "its weights are no table"),
        ({"models": ["aa"], "weights": [["x"]]}, "its weights are no table"),
        ({"models": "aa"}, "names no stems|no list"),
    ):
        bag.write_text(yaml.dump(content))
        with pytest.raises(UserError, match=text):
            load_separator(bag, CPU)


@pytest.mark.parametrize(
    ("stems", "stage", "expected"),
    [
        (("drums", "Vocals"), VOCALS, (1, False)),
        (("other",), VOCALS, (0, True)),
        (("karaoke",), LEAD, (0, False)),
        (("Vocals", "Instrumental"), LEAD, (0, False)),
        (("No Reverb",), DRY, (0, False)),
        (("no-reverb",), DRY, (0, False)),
        (("reverb",), DRY, (0, True)),
    ],
)
def test_stems_are_known_by_the_names_that_models_give_them(stems, stage, expected):
    stem = choose_stem(stems, stage, "m.ckpt")
    assert (stem.index, stem.is_rest) == expected


@pytest.mark.parametrize(("stems", "stage"), [(("drums", "other"), VOCALS), (("vocals",), DRY), (("dry",), VOCALS)])
def test_a_model_of_something_else_names_its_stems(stems, stage):
    with pytest.raises(UserError, match=rf"m\.ckpt: gives {stems[0]}.*, and {stage.name} is to be taken out"):
        choose_stem(stems, stage, "m.ckpt")


class Identity(torch.nn.Module):
    """Gives each stem its input."""

    def forward(self, sound):
        return sound[:, None]


def identity(channels=2, is_normalised=True, segment=1000, network=None):
    spec = SeparatorSpec(("vocals",), RATE, channels, segment, segment * 3 // 4, segment // 2, is_normalised)
    return Separator([Member(network or Identity(), (1.0,))], spec, CPU, "identity", "0")


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
@pytest.mark.parametrize("width", [1, 2])
def test_any_number_of_channels_comes_back_in_its_place_and_at_its_level(channels, width):
    wav = noise(0.1, channels) * np.arange(1, channels + 1, dtype=np.float32)
    found = separated(identity(width), wav, mean=0.0, deviation=0.3)
    assert found.shape == wav.shape and np.abs(found - wav).max() < 1e-6


def test_a_network_that_fails_is_no_silence():
    class Broken(torch.nn.Module):
        def forward(self, sound):
            return sound[:, None] * float("nan")

    with pytest.raises(UserError, match="identity gives no numbers"):
        separated(identity(network=Broken()), noise(0.1))


def test_too_little_memory_is_one_line_and_fewer_segments_are_tried_first():
    class Greedy(torch.nn.Module):
        most, seen = 1, []

        def forward(self, sound):
            self.seen.append(len(sound))
            if len(sound) > self.most:
                raise torch.OutOfMemoryError
            return sound[:, None]

    network = Greedy()
    separator = identity(network=network)
    separator._batch, wav = 4, noise(0.2)
    assert np.abs(separated(separator, wav) - wav).max() < 1e-6
    assert network.seen[:2] == [4, 2] and set(network.seen[2:]) == {1, 2} and network.seen.count(4) == 1
    network.seen.clear()
    separated(separator, wav)
    assert set(network.seen) == {1}, "what did not fit is not tried again"
    network.most = 0
    with pytest.raises(UserError, match=r"cpu: not enough memory for 0\.0 s of sound.*--device cpu"):
        separated(separator, wav)


# What is refused


def refused(path, text, **options):
    with pytest.raises(UserError, match=text) as caught:
        load_separator(path, CPU, **options)
    assert len(str(caught.value).splitlines()) == 1 and path.name in str(caught.value)


def test_a_file_that_wants_to_run_something_is_refused(tmp_path):
    path, written = write_htdemucs(tmp_path / "a.th"), tmp_path / "run"
    content = opened(path)
    kwargs = {"sources": STEMS, "x": Payload(os.mkdir, str(written))}
    torch.save({"klass": "demucs.htdemucs.HTDemucs", "args": (), "kwargs": kwargs, "state": content["state"]}, path)
    refused(path, "refused, it holds more than weights and settings .*mkdir")
    assert not written.exists()


def test_truncated_and_foreign_files_are_refused(tmp_path):
    path = write_htdemucs(tmp_path / "a.th")
    data = path.read_bytes()
    for size in (0, 100, len(data) // 2, len(data) - 10):
        path.write_bytes(data[:size])
        refused(path, "damaged|empty|cut short")
    path.write_bytes(b"<html>not found</html>")
    refused(path, "damaged or not a weights file")
    torch.save({"model": {"enc_p.pre.weight": torch.zeros(2)}, "iteration": 1}, tmp_path / "G_0.pth")
    refused(tmp_path / "G_0.pth", "is no model for separation that is known here. Known: HTDemucs")
    refused(write_htdemucs(tmp_path / "h.th", klass="HDemucs"), r"is a demucs\.hdemucs\.HDemucs, expected an HTDemucs")
    refused(tmp_path / "gone.th", "no such file")


def test_changed_bytes_are_found(tmp_path):
    path = write_roformer(tmp_path / "a.ckpt")
    with zipfile.ZipFile(path) as archive:
        member = max(archive.infolist(), key=lambda info: info.file_size)
    data = bytearray(path.read_bytes())
    data[member.header_offset + 200 + member.file_size // 2] ^= 1
    path.write_bytes(data)
    refused(path, "does not match its checksum")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sources": "vocals"}, "names no stems"),
        ({"segment": 0}, "segment is 0, expected"),
        ({"audio_channels": 6}, "audio_channels is 6, expected 1 to 2"),
        ({"samplerate": 1}, "samplerate is 1, expected"),
        ({"channels": 6}, "does not fit the settings in it"),
        ({"depth": "x"}, "its settings make no network"),
        ({"channels": 10**6}, "its settings make no network .it needs more memory"),
        ({"nfft": 0}, "its settings make no network|does not fit"),
    ],
)
def test_settings_in_a_demucs_file_that_make_no_sense_are_one_line(changes, text, tmp_path):
    path = write_htdemucs(tmp_path / "a.th")
    content = opened(path)
    kwargs = {**content["kwargs"], "segment": 0.2, **changes}
    save_as_safetensors(tmp_path / "a.safetensors", content["state"], kwargs)
    refused(tmp_path / "a.safetensors", text)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda s: s["model"].update(depth=2), "is missing"),
        (lambda s: s["model"].update(dim=16), "is expected"),
        (lambda s: s["model"].update(dim="x"), "its settings make no network"),
        (lambda s: s["model"].update(nonsense=1), "its settings make no network"),
        (lambda s: s.pop("model"), "has no section 'model'"),
        (lambda s: s["audio"].pop("chunk_size"), "audio.chunk_size is None, expected"),
        (lambda s: s["audio"].update(sample_rate="44.1k"), "audio.sample_rate is 44.1k, expected"),
        (lambda s: s["inference"].update(num_overlap=0), "inference.num_overlap is 0, expected"),
        (lambda s: s["training"].update(instruments=[]), "names no stems"),
        (lambda s: s["training"].update(target_instrument=None), "num_stems is 1, and it names vocals, rest"),
    ],
)
def test_a_yaml_that_does_not_fit_is_one_line(edit, text, tmp_path):
    path = write_roformer(tmp_path / "a.ckpt")
    config = path.with_suffix(".yaml")
    settings = yaml.unsafe_load(config.read_text("utf-8"))
    edit(settings)
    config.write_text(yaml.dump(settings))
    with pytest.raises(UserError, match=text) as caught:
        load_separator(path, CPU)
    assert len(str(caught.value).splitlines()) == 1 and "a." in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "!!python/object/apply:os.mkdir [run]", "- 1", "a: &a [*a]", "\x00", ""])
def test_a_yaml_that_is_none_or_wants_to_run_something_is_one_line(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_roformer(tmp_path / "a.ckpt")
    path.with_suffix(".yaml").write_text(text)
    with pytest.raises(UserError, match=r"a\.yaml: ") as caught:
        load_separator(path, CPU)
    assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / "run").exists()


def test_without_the_package_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    path = write_htdemucs(tmp_path / "a.th")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-separation\.txt"):
        load_separator(path, CPU)
