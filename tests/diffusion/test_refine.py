"""Diffusion over stretches: each comes out the same in any company, however much the memory holds at once."""

import dataclasses

import golden_rule
import pytest
import torch

from diffusion.refine import LENGTH_STEP, DiffusionRefiner, Walk
from diffusion.unit2mel import Unit2Mel
from modules.config.audio import AudioSpec
from modules.contracts import Stretch
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
    return in_company(DiffusionRefiner(network, vocoder, Walk(20, "dpm-solver++", 5), show_progress=False))


def walking(refiner: DiffusionRefiner, k_step: int, method: str | None, speedup: int) -> DiffusionRefiner:
    walk = Walk(k_step, method, speedup)
    return in_company(DiffusionRefiner(refiner.network, refiner.vocoder, walk, show_progress=False))


def in_company(refiner: DiffusionRefiner) -> DiffusionRefiner:
    """With room for everything at once, which a CPU would not be given."""
    refiner.batch_frames = 10000
    return refiner


def parts_of(frames: int, speaker: int | torch.Tensor = 1, sung: bool = True, more: int = 0) -> dict:
    """The parts of a stretch of `frames`, sung with `more` samples than they have."""
    return {
        "wav": 0.1 * torch.randn(frames * HOP + more) if sung else None,
        "units": torch.randn(WIDTH, frames),
        "f0": 100 + 200 * torch.rand(frames),
        "volume": 0.1 * torch.rand(frames),
        "speaker": speaker,
    }


def stretches(sung: bool = True, weights: bool = False) -> list[Stretch]:
    speakers = [torch.rand(SPEAKERS, n).softmax(0) if weights else n % SPEAKERS for n in LENGTHS]
    return [Stretch(**parts_of(n, speaker, sung)) for n, speaker in zip(LENGTHS, speakers)]


def assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("sung", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_company_changes_nothing(refiner, method, sung, weights):
    some = stretches(sung, weights)
    refiner = walking(refiner, 20 if sung else 100, method, 5)
    together = refiner.refine(some)
    assert [wav.shape for wav in together] == [(n * HOP,) for n in LENGTHS]
    assert all(wav.dtype == torch.float32 and wav.isfinite().all() for wav in together)
    assert_same(together, [refiner.refine([one])[0] for one in some])
    assert_same(together, refiner.refine(some[::-1])[::-1])


def test_company_changes_no_mel(refiner):
    some = stretches()
    for together, one in zip(refiner.mels(some), some):
        alone = refiner.mels([one])[0]
        assert together.shape == (AUDIO.n_mels, len(one.f0))
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changed", ["wav", "units", "f0", "volume", "speaker"])
def test_every_part_of_a_stretch_is_heard(refiner, changed):
    one = parts_of(40, speaker=0)
    other = 2 if changed == "speaker" else 2 * one[changed]
    mels = [refiner.mels([Stretch(**parts)])[0] for parts in (one, one | {changed: other})]
    assert (mels[0] - mels[1]).abs().max() > 1e-3


def test_all_weight_on_a_speaker_is_that_speaker(refiner):
    one = Stretch(**parts_of(40, speaker=2))
    weights = torch.zeros(SPEAKERS, 40)
    weights[2] = 1
    assert_same(refiner.refine([dataclasses.replace(one, speaker=weights)]), refiner.refine([one]))


@pytest.mark.parametrize("more", [-200, -1, 0, 50, 200])
def test_the_pitch_says_how_many_frames_there_are(refiner, more):
    wav = refiner.refine([Stretch(**parts_of(20, more=more))])[0]
    assert wav.shape == (20 * HOP,) and wav.isfinite().all()


def test_no_levels_keep_the_sung_mel(refiner):
    one = Stretch(**parts_of(40))
    assert torch.equal(walking(refiner, 0, "dpm-solver++", 5).mels([one])[0], refiner.vocoder.mel(one.wav))


def test_few_levels_stay_near_the_sung_mel(refiner):
    some = stretches()
    distance = {}
    for k_step in (3, 80):
        made = walking(refiner, k_step, "ddim", 1).mels(some)
        far = [(mel - refiner.vocoder.mel(one.wav)).abs().mean() for mel, one in zip(made, some)]
        distance[k_step] = max(far).item()
    assert distance[3] < 0.4 < distance[80]


def test_without_a_sung_wave_the_vocoder_takes_no_mel(refiner, monkeypatch):
    monkeypatch.setattr(refiner.vocoder, "mel", None)
    assert [len(wav) for wav in walking(refiner, 100, "unipc", 20).refine(stretches(sung=False))] == [
        n * HOP for n in LENGTHS
    ]


@pytest.mark.parametrize("limit", [1, 128, 192, 320, 10000])
def test_a_batch_with_its_padding_fits(refiner, limit):
    some = stretches()
    refiner.batch_frames = limit
    order = sorted(range(len(some)), key=lambda index: LENGTHS[index])
    batches = refiner._batches(order, some)
    assert [index for batch in batches for index in batch] == order
    for batch in batches:
        longest = LENGTH_STEP * -(-max(LENGTHS[index] for index in batch) // LENGTH_STEP)
        assert len(batch) == 1 or len(batch) * longest <= limit
    assert len(batches) == {1: 5, 128: 3, 192: 2, 320: 1, 10000: 1}[limit]


@pytest.mark.parametrize("limit", [1, 128, 192])
def test_the_size_of_batches_changes_nothing(refiner, limit):
    some = stretches()
    wanted = refiner.refine(some)
    refiner.batch_frames = limit
    assert_same(refiner.refine(some), wanted)


@pytest.mark.parametrize("affordable", [1, 2])
def test_a_batch_too_large_for_the_memory_is_halved(refiner, monkeypatch, affordable):
    some = stretches()
    wanted, sample, sizes = refiner.refine(some), refiner.network.decoder.sample, []

    def sample_few(condition, *rest):
        sizes.append(len(condition))
        if len(condition) > affordable:
            raise torch.OutOfMemoryError("no memory")
        return sample(condition, *rest)

    monkeypatch.setattr(refiner.network.decoder, "sample", sample_few)
    assert_same(refiner.refine(some), wanted)
    assert sizes == {1: [5, 2, 1, 1, 3, 1, 2, 1, 1], 2: [5, 2, 3, 1, 2]}[affordable]


def test_a_single_stretch_too_large_for_the_memory_is_an_error(refiner, monkeypatch):
    def sample(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(refiner.network.decoder, "sample", sample)
    with pytest.raises(torch.OutOfMemoryError):
        refiner.refine(stretches())


@pytest.mark.parametrize("method", [None, "dpm-solver++"])
def test_the_result_is_repeatable_and_the_random_state_is_kept(refiner, method):
    some, refiner = stretches(), walking(refiner, 20, method, 5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = refiner.refine(some)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(torch.equal(one, other) for one, other in zip(first, refiner.refine(some)))


def test_nothing_in_gives_nothing_out(refiner):
    assert refiner.refine([]) == []


def test_progress_is_shown_only_where_asked(refiner, monkeypatch, capsys):
    refiner.refine(stretches())
    assert capsys.readouterr() == ("", "")
    seen = []
    monkeypatch.setattr("diffusion.refine.tqdm", lambda **options: seen.append(options) or _Bar(seen))
    refiner.show_progress = True
    refiner.refine(stretches())
    options, *steps = seen
    assert options["disable"] is False and sum(steps) == options["total"] == 4


class _Bar:
    def __init__(self, seen: list) -> None:
        self.update = seen.append

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None
