"""Diffusion over chunks: each comes out the same in any company, however much the memory holds at once."""

import dataclasses

import golden_rule
import pytest
import torch

from diffusion.refine import DiffusionRefiner
from diffusion.unit2mel import Unit2Mel
from modules.config.audio import AudioSpec
from modules.contracts import Synthesis, VoiceInput
from modules.nn.weight_norm import fold_weight_norm
from vdecoder.mel_vocoder import NsfHifiganVocoder
from vdecoder.nsf_hifigan import GeneratorSpec, NSFGenerator

AUDIO = AudioSpec(16000, 256, 64, 256, 8, 0, 8000)
HOP = AUDIO.hop_length
SPEC = GeneratorSpec(16000, (8, 8), (16, 16), 16, "1", (3,), ((1, 3),))
SPEAKERS, WIDTH = 3, 6
LENGTHS = [40, 7, 64, 33, 21]
METHODS = [None, "ddpm", "ddim", "pndm", "dpm-solver", "dpm-solver++", "unipc"]


@pytest.fixture
def network() -> Unit2Mel:
    network = Unit2Mel(WIDTH, SPEAKERS, True, AUDIO.n_mels, 2, 16, 12, timesteps=100)
    golden_rule.fill(network, {"decoder.denoise_fn.output_projection": 0.5})
    return network.eval().requires_grad_(False)


@pytest.fixture
def vocoder() -> NsfHifiganVocoder:
    generator = NSFGenerator(AUDIO.n_mels, SPEC, slow_start=True).eval().requires_grad_(False)
    return NsfHifiganVocoder(fold_weight_norm(generator), AUDIO)


@pytest.fixture
def refiner(network, vocoder) -> DiffusionRefiner:
    return in_company(DiffusionRefiner(network, vocoder, 20, "dpm-solver++", 5))


def with_settings(refiner: DiffusionRefiner, k_step: int, method: str | None, speedup: int) -> DiffusionRefiner:
    return in_company(DiffusionRefiner(refiner.network, refiner.vocoder, k_step, method, speedup))


def in_company(refiner: DiffusionRefiner) -> DiffusionRefiner:
    """With room for everything at once, which a CPU would not be given."""
    refiner.batch_frames = 10000
    return refiner


def make_chunk(frames: int, speaker: int | torch.Tensor = 1, with_voice: bool = True, more: int = 0) -> tuple:
    """Output of a voice model with `more` samples than the frames have, or None; and what it was made from."""
    wav, units = 0.1 * torch.randn(frames * HOP + more), torch.randn(WIDTH, frames)
    f0, volume = 100 + 200 * torch.rand(frames), 0.1 * torch.rand(frames)
    given = VoiceInput(units, f0, torch.ones(frames), speaker, volume)
    return Synthesis(wav, f0) if with_voice else None, given


def make_chunks(with_voice: bool = True, weights: bool = False) -> list[tuple]:
    speakers = [torch.rand(SPEAKERS, n).softmax(0) if weights else n % SPEAKERS for n in LENGTHS]
    return [make_chunk(n, speaker, with_voice) for n, speaker in zip(LENGTHS, speakers)]


def refine(refiner: DiffusionRefiner, chunks: list[tuple]) -> list[torch.Tensor]:
    return refiner.refine([output for output, _ in chunks], [given for _, given in chunks])


def assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("with_voice", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_company_changes_nothing(refiner, method, with_voice, weights):
    some = make_chunks(with_voice, weights)
    refiner = with_settings(refiner, 20 if with_voice else 100, method, 5)
    together = refine(refiner, some)
    assert [wav.shape for wav in together] == [(n * HOP,) for n in LENGTHS]
    assert all(wav.dtype == torch.float32 and wav.isfinite().all() for wav in together)
    assert_same(together, [refine(refiner, [one])[0] for one in some])
    assert_same(together, refine(refiner, some[::-1])[::-1])


def test_company_changes_no_mel(refiner):
    some = make_chunks()
    for together, one in zip(refiner.mels(some), some):
        alone = refiner.mels([one])[0]
        assert together.shape == (AUDIO.n_mels, len(one[1].f0))
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changed", ["wav", "units", "f0", "volume", "speaker"])
def test_every_part_of_a_chunk_counts(refiner, changed):
    output, given = make_chunk(40, speaker=0)
    if changed in ("wav", "f0"):
        other = dataclasses.replace(output, **{changed: 2 * getattr(output, changed)}), given
    else:
        value = 2 if changed == "speaker" else 2 * getattr(given, changed)
        other = output, dataclasses.replace(given, **{changed: value})
    mels = [refiner.mels([chunk])[0] for chunk in ((output, given), other)]
    assert (mels[0] - mels[1]).abs().max() > 1e-3


def test_all_weight_on_a_speaker_is_that_speaker(refiner):
    output, given = make_chunk(40, speaker=2)
    weights = torch.zeros(SPEAKERS, 40)
    weights[2] = 1
    mixed = output, dataclasses.replace(given, speaker=weights)
    assert_same(refine(refiner, [mixed]), refine(refiner, [(output, given)]))


@pytest.mark.parametrize("more", [-200, -1, 0, 50, 200])
def test_the_pitch_says_how_many_frames_there_are(refiner, more):
    wav = refine(refiner, [make_chunk(20, more=more)])[0]
    assert wav.shape == (20 * HOP,) and wav.isfinite().all()


def test_no_levels_keep_the_sung_mel(refiner):
    one = make_chunk(40)
    assert torch.equal(with_settings(refiner, 0, "dpm-solver++", 5).mels([one])[0], refiner.vocoder.mel(one[0].wav))


def test_few_levels_stay_near_the_sung_mel(refiner):
    some = make_chunks()
    distance = {}
    for k_step in (3, 80):
        made = with_settings(refiner, k_step, "ddim", 1).mels(some)
        far = [(mel - refiner.vocoder.mel(one[0].wav)).abs().mean() for mel, one in zip(made, some)]
        distance[k_step] = max(far).item()
    assert distance[3] < 0.4 < distance[80]


def test_without_a_sung_wave_the_vocoder_takes_no_mel(refiner, monkeypatch):
    monkeypatch.setattr(refiner.vocoder, "mel", None)
    wavs = refine(with_settings(refiner, 100, "unipc", 20), make_chunks(with_voice=False))
    assert [len(wav) for wav in wavs] == [n * HOP for n in LENGTHS]


@pytest.mark.parametrize(("limit", "n_batches"), [(1, 5), (128, 3), (192, 2), (320, 1), (10000, 1)])
def test_a_batch_with_its_padding_fits(refiner, monkeypatch, limit, n_batches):
    """Lengths are padded to 64, 32, 64, 64 and 32 frames."""
    sizes, mels = [], refiner.mels
    monkeypatch.setattr(refiner, "mels", lambda chunks: sizes.append(len(chunks)) or mels(chunks))
    refiner.batch_frames = limit
    refine(refiner, make_chunks())
    assert len(sizes) == n_batches and sum(sizes) == len(LENGTHS)


@pytest.mark.parametrize("limit", [1, 128, 192])
def test_the_size_of_batches_changes_nothing(refiner, limit):
    some = make_chunks()
    wanted = refine(refiner, some)
    refiner.batch_frames = limit
    assert_same(refine(refiner, some), wanted)


@pytest.mark.parametrize("affordable", [1, 2])
def test_a_batch_too_large_for_the_memory_is_halved(refiner, monkeypatch, affordable):
    some = make_chunks()
    wanted, sample, sizes = refine(refiner, some), refiner.network.decoder.sample, []

    def sample_few(condition, *rest):
        sizes.append(len(condition))
        if len(condition) > affordable:
            raise torch.OutOfMemoryError("no memory")
        return sample(condition, *rest)

    monkeypatch.setattr(refiner.network.decoder, "sample", sample_few)
    assert_same(refine(refiner, some), wanted)
    assert sizes == {1: [5, 2, 1, 1, 3, 1, 2, 1, 1], 2: [5, 2, 3, 1, 2]}[affordable]


def test_a_single_stretch_too_large_for_the_memory_is_an_error(refiner, monkeypatch):
    def sample(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(refiner.network.decoder, "sample", sample)
    with pytest.raises(torch.OutOfMemoryError):
        refine(refiner, make_chunks())


@pytest.mark.parametrize("method", [None, "dpm-solver++"])
def test_the_result_is_repeatable_and_the_random_state_is_kept(refiner, method):
    some, refiner = make_chunks(), with_settings(refiner, 20, method, 5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = refine(refiner, some)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(torch.equal(one, other) for one, other in zip(first, refine(refiner, some)))


def test_nothing_in_gives_nothing_out(refiner):
    assert refine(refiner, []) == []


def test_progress_counts_evaluations_and_short_work_shows_none(refiner, monkeypatch, capsys):
    refine(refiner, make_chunks())
    assert capsys.readouterr() == ("", "")
    seen = []
    monkeypatch.setattr("diffusion.refine.tqdm", lambda **options: seen.append(options) or _Bar(seen))
    refine(refiner, make_chunks())
    options, *steps = seen
    assert sum(steps) == options["total"] == 4


class _Bar:
    def __init__(self, seen: list) -> None:
        self.update = seen.append

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None
