"""What becomes of chunks when memory runs out, and that company, cuts and interruptions change nothing."""

import os

import numpy as np
import pytest
import soundfile
import torch
from inference.fake_voice import AUDIO, FakeEncoder, FakeSynthesizer, fake_converter, silence, sung

from modules.contracts import Synthesis
from modules.errors import AudioError
from modules.inference.options import ConversionOptions
from modules.inference.resume import PartialResult, unfinished_files

ALTO = ConversionOptions("alto")


class BatchEncoder(FakeEncoder):
    def encode_batch(self, wavs):
        return [self.encode(wav) for wav in wavs]


class SmallMemory(FakeSynthesizer):
    """Has room for `room` frames at once."""

    def __init__(self, calls, room):
        super().__init__(calls)
        self.room, self.batches = room, []

    def infer(self, units, *args):
        if units.shape[1] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().infer(units, *args)

    def infer_batch(self, items, noise_scale):
        longest = max(item.units.shape[1] for item in items)
        if longest * len(items) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.batches.append(len(items))
        results = []
        for item in items:
            inputs = item.units, item.f0, item.uv, item.speaker, item.volume, noise_scale, False
            made = super().infer(*inputs, item.needed)
            results.append(Synthesis(made.wav, item.f0))
        return results


def song(n_segments: int, seconds: float = 6.0) -> np.ndarray:
    return np.concatenate([p for i in range(n_segments) for p in (sung(seconds, 16000, i), silence(1, 16000))])


def with_room(room: int, batch_frames: int = 0):
    calls = []
    synthesizer = SmallMemory(calls, room)
    encoder = BatchEncoder(calls)
    return fake_converter(synthesizer=synthesizer, encoder=encoder, batch_frames=batch_frames)[0], synthesizer


def test_segments_synthesized_together_are_what_they_are_alone():
    wav = song(5)
    alone, _, _ = fake_converter()
    together, synthesizer = with_room(100_000, batch_frames=3000)
    assert np.array_equal(together.convert_wav(wav, 16000, ALTO), alone.convert_wav(wav, 16000, ALTO))
    assert max(synthesizer.batches) >= 2


def test_a_segment_of_another_length_is_synthesized_apart():
    converter, synthesizer = with_room(100_000, batch_frames=100_000)
    wav = np.concatenate([song(3), sung(14, 16000), silence(1, 16000)])
    converter.convert_wav(wav, 16000, ALTO)
    assert sum(synthesizer.batches) < len(synthesizer.seen) == 4


def test_a_batch_that_does_not_fit_is_halved_and_stays_halved(caplog):
    wav = song(8)
    converter, synthesizer = with_room(1700, batch_frames=3000)  # two segments of 700 frames fit, four do not
    expected = fake_converter()[0].convert_wav(wav, 16000, ALTO)
    assert np.array_equal(converter.convert_wav(wav, 16000, ALTO), expected)
    assert synthesizer.batches and max(synthesizer.batches) == 2
    assert caplog.text.count("halving") == 1, "it is not tried again with the same size"


def test_a_segment_that_does_not_fit_is_cut_and_sounds_the_same(caplog):
    """As with the cap: the stand-in's 20 ms steps are worth less than 0.02 of full scale."""
    wav = sung(25, 16000)
    converter, _ = with_room(1000)
    expected = fake_converter()[0].convert_wav(wav, 16000, ALTO)
    cut = converter.convert_wav(wav, 16000, ALTO)
    assert len(cut) == len(expected)
    assert np.abs(cut - expected)[1000:-1000].max() < 0.02
    assert "--max_segment 12" in caplog.text and "--max_segment 4" in caplog.text
    caplog.clear()
    converter.convert_wav(wav, 16000, ALTO)
    assert not caplog.text, "what was found out is kept"


def test_a_segment_that_never_fits_is_an_error_with_advice():
    converter, _ = with_room(10)
    with pytest.raises(AudioError, match=r"audio, 0\.0 to \d+\.\d s: not enough memory.*-d cpu"):
        converter.convert_wav(sung(9, 16000), 16000, ALTO)


@pytest.mark.parametrize("fails_at", [2, 3, 4, 6])
@pytest.mark.parametrize(
    "options",
    [
        ConversionOptions("alto", max_segment_seconds=4),
        ConversionOptions("alto", clip_seconds=3, overlap_seconds=0.5),
        ALTO,
    ],
    ids=["cap", "forced", "whole"],
)
def test_an_interrupted_conversion_goes_on_to_the_same_samples(tmp_path, options, fails_at):
    soundfile.write(tmp_path / "in.wav", song(4, 9.0), 22050)
    files = tmp_path / "in.wav", tmp_path / "out.wav"
    converter, synthesizer, _ = fake_converter()
    converter.convert(*files, options, progress=False)
    expected = files[1].read_bytes()
    n_calls = len(synthesizer.seen)
    files[1].unlink()
    if fails_at > n_calls:
        pytest.skip("fewer chunks than that")
    synthesizer.seen.clear()
    synthesizer.fails_at_call = fails_at
    with pytest.raises(AudioError):
        converter.convert(*files, options, progress=False)
    n_before, synthesizer.fails_at_call = len(synthesizer.seen), None
    report = converter.convert(*files, options, progress=False, resume=True)
    assert files[1].read_bytes() == expected
    assert report.resumed_seconds > 0 and report.seconds == pytest.approx(soundfile.info(files[1]).duration)
    n_again = len(synthesizer.seen) - n_before
    assert n_again < n_calls or fails_at == 2, "at most the last finished chunk comes again"
    assert {path.name for path in tmp_path.iterdir()} == {"in.wav", "out.wav"}


def test_ctrl_c_keeps_what_was_finished(tmp_path, caplog):
    soundfile.write(tmp_path / "in.wav", song(4), 16000)
    converter, synthesizer, _ = fake_converter()
    honest = synthesizer.infer

    def stop(*args):
        if len(synthesizer.seen) == 3:
            raise KeyboardInterrupt
        return honest(*args)

    synthesizer.infer = stop
    with pytest.raises(KeyboardInterrupt):
        converter.convert(tmp_path / "in.wav", tmp_path / "out.flac", ALTO, progress=False)
    assert "its first 0:20 are kept" in caplog.text
    assert len(unfinished_files(tmp_path)) == 1


def test_an_unfinished_file_of_another_request_or_a_cut_sample_does_no_harm(tmp_path):
    path = tmp_path / "out.wav"
    with PartialResult(path, "a", resume=False) as partial:
        partial.write(np.ones(100, np.float32))
    (file,) = unfinished_files(tmp_path)
    file.write_bytes(file.read_bytes()[:-2])
    with PartialResult(path, "a", resume=True) as partial:
        assert partial.n_samples == 99
        partial.write(np.zeros(1, np.float32))
        partial.finish(AUDIO.sampling_rate, "wav")
    assert soundfile.read(path)[0].tolist()[-2:] == [pytest.approx(1, abs=1e-4), 0]
    with PartialResult(path, "a", resume=False) as partial:
        partial.write(np.ones(100, np.float32))
    with PartialResult(path, "b", resume=False) as partial:
        assert partial.n_samples == 0
    assert len(unfinished_files(tmp_path)) == 1, "nothing was written, so nothing is left but what is another's"
    with PartialResult(tmp_path / "out_2.wav", "a", resume=True) as partial:
        assert partial.n_samples == 100, "also when the name has been taken meanwhile"
    os.utime(unfinished_files(tmp_path)[0], (0, 0))
    assert not unfinished_files(tmp_path) and not list(tmp_path.glob(".*")), "old ones are cleared away"


def test_another_process_at_work_keeps_its_file(tmp_path):
    path = tmp_path / "out.wav"
    theirs = tmp_path / f".out.wav.a.{os.getppid()}.unfinished"
    theirs.write_bytes(b"x")
    with PartialResult(path, "a", resume=True) as partial:
        assert partial.n_samples == 0
    if os.name != "nt":
        assert theirs.exists()


def test_the_pitch_of_the_next_piece_is_taken_while_this_one_is_synthesized():
    converter, _, calls = fake_converter()
    converter.convert_wav(song(3), 16000, ALTO)
    kinds = [kind for kind, _ in calls]
    assert kinds.count("predict") == kinds.count("infer") == 3
    assert kinds.index("predict", kinds.index("predict") + 1) < len(kinds) - 1 - kinds[::-1].index("infer")
    serial, _, order = fake_converter(predictor_on_cpu=False)
    serial.convert_wav(song(3), 16000, ALTO)
    assert [kind for kind, _ in order] == ["predict", "encode", "infer"] * 3
