"""The converter with stand-in networks: lengths, order, silence, joins, memory, failures."""

import math
import os

import numpy as np
import pytest
import soundfile
import torch
from inference.fake_voice import AUDIO, fake_converter, folder_listing, silence, sung

from modules.audio.loudness import frame_volume
from modules.audio.torchaudio_compat import import_torchaudio
from modules.contracts import F0
from modules.errors import AudioError, UsageError
from modules.inference.chunks import Chunk, trim
from modules.inference.options import ConversionOptions
from modules.inference.stream import Song

ALTO = ConversionOptions("alto")


def test_a_segment_is_pitched_encoded_and_synthesized():
    converter, _, calls = fake_converter()
    converter.convert_wav(sung(2, 16000), 16000, ALTO)
    padded = 2 * 16000 + 2 * 8000
    assert calls == [("predict", padded), ("encode", padded), ("infer", padded // AUDIO.hop_length)]


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 44056, 48000, 96000, 192000])
@pytest.mark.parametrize("seconds", [0.013, 1.2345])
def test_the_result_is_exactly_as_long_as_the_source(rate, seconds):
    converter, _, _ = fake_converter()
    wav = sung(seconds, rate)
    assert len(converter.convert_wav(wav, rate, ALTO)) == math.ceil(len(wav) * 16000 / rate)


def test_many_segments_do_not_add_up_to_a_drift():
    converter, _, _ = fake_converter()
    rate = 22050
    wav = np.concatenate([part for index in range(6) for part in (sung(5.51, rate, index), silence(1.333, rate))])
    out = converter.convert_wav(wav, rate, ALTO)
    assert len(out) == math.ceil(len(wav) * 16000 / rate)
    last = (5 * (5.51 + 1.333) + 2, 5 * (5.51 + 1.333) + 5)
    chunk = out[int(last[0] * 16000) : int(last[1] * 16000)]
    assert chunk.min() > 0.1, "the sixth segment lies where it lies in the source"


@pytest.mark.parametrize("pad_seconds", [0.0, 0.05, 0.5])
def test_every_padding_gives_the_same_length(pad_seconds):
    converter, _, _ = fake_converter()
    wav = sung(1.1, 44100)
    out = converter.convert_wav(wav, 44100, ConversionOptions("alto", pad_seconds=pad_seconds))
    assert len(out) == math.ceil(len(wav) * 16000 / 44100)
    assert out[4000:-4000].min() > 0.1


def test_silence_stays_silent_and_costs_nothing():
    converter, _, calls = fake_converter()
    out = converter.convert_wav(silence(12.3, 44100), 44100, ALTO)
    assert len(out) == math.ceil(12.3 * 16000) and not out.any()
    assert not calls


def test_silence_between_two_segments_is_exactly_zero():
    converter, _, _ = fake_converter()
    wav = np.concatenate([sung(6, 16000), silence(3, 16000), sung(6, 16000)])
    out = converter.convert_wav(wav, 16000, ALTO)
    loud = np.flatnonzero(out[: 8 * 16000]).max() / 16000
    assert 5.9 < loud < 7.6
    assert (out[int(6.5 * 16000) : int(8.5 * 16000)] == 0).mean() > 0.9


def test_speaker_zero_is_a_valid_speaker():
    converter, synthesizer, _ = fake_converter()
    converter.convert_wav(sung(1, 16000), 16000, ALTO)
    converter.convert_wav(sung(1, 16000), 16000, ConversionOptions("tenor"))
    assert [seen["speaker"] for seen in synthesizer.seen] == [0, 1]


def test_transposition_multiplies_the_pitch():
    converter, synthesizer, _ = fake_converter()
    converter.convert_wav(sung(1, 16000), 16000, ConversionOptions("alto", transpose=-12))
    assert torch.allclose(synthesizer.seen[0]["f0"], torch.tensor(100.0))


def test_loudness_reaches_only_a_voice_that_takes_it():
    converter, synthesizer, _ = fake_converter(with_volume=True)
    converter.convert_wav(sung(1, 16000), 16000, ALTO)
    volume = synthesizer.seen[0]["volume"]
    assert volume.shape == synthesizer.seen[0]["f0"].shape
    assert 0.2 < float(volume.max()) < 0.6
    plain, quiet, _ = fake_converter()
    plain.convert_wav(sung(1, 16000), 16000, ALTO)
    assert quiet.seen[0]["volume"] is None


def test_an_unknown_speaker_is_answered_with_those_there_are():
    converter, _, _ = fake_converter()
    with pytest.raises(UsageError, match=r"'soprano'.*alto, tenor"):
        converter.convert_wav(sung(1, 16000), 16000, ConversionOptions("soprano"))


def test_pitch_prediction_needs_a_model_that_can():
    converter, _, _ = fake_converter(can_predict_f0=False)
    with pytest.raises(UsageError, match="without a pitch decoder"):
        converter.convert_wav(sung(1, 16000), 16000, ConversionOptions("alto", predict_f0=True))


def test_a_segment_cut_at_the_cap_sounds_like_the_whole():
    """The stand-in draws loudness at 20 ms steps; cut chunks have another grid, worth less than 0.02 of full scale."""
    converter, _, calls = fake_converter()
    wav = sung(40, 22050)
    whole = converter.convert_wav(wav, 22050, ConversionOptions("alto", max_segment_seconds=100))
    n_whole = len(calls)
    cut = converter.convert_wav(wav, 22050, ConversionOptions("alto", max_segment_seconds=6))
    assert len(calls) - n_whole >= 3 * 7
    assert len(cut) == len(whole)
    inner = slice(1000, -1000)  # the very ends fade into the padding, by half a frame more or less
    assert np.abs(cut - whole)[inner].max() < 0.02


def test_segments_up_to_the_cap_are_not_cut():
    converter, _, calls = fake_converter()
    converter.convert_wav(sung(29.9, 16000), 16000, ALTO)
    assert len(calls) == 3


def by_hand(converter, wav: np.ndarray, rate: int) -> np.ndarray:
    """One chunk as so-vits-svc 4.1 converts it: zeros around, networks, zeros off, the gap shared between both ends."""
    parts = converter.pipeline
    zeros = np.zeros(int(rate * 0.5), np.float32)
    chunk = torch.from_numpy(np.concatenate([zeros, wav, zeros]))
    if rate != 16000:
        chunk = import_torchaudio().transforms.Resample(rate, 16000)(chunk)
    n_frames = len(chunk) // AUDIO.hop_length
    units = parts.encoder.encode(chunk.numpy())
    units = torch.nn.functional.interpolate(units[None], size=n_frames, mode="nearest")[0]
    ones = torch.ones(n_frames)
    out = parts.synthesizer.infer(units, ones, ones, 0, None, 0.4, False).wav.numpy()[8000:-8000]
    missing = math.ceil(len(wav) / rate * 16000) - len(out)
    return np.pad(out, (missing // 2, missing - missing // 2))


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_a_segment_gives_upstreams_samples(rate):
    converter, _, _ = fake_converter()
    wav = sung(3.21, rate)
    assert np.array_equal(converter.convert_wav(wav, rate, ALTO), by_hand(converter, wav, rate))


@pytest.mark.parametrize("retain", [0.75, 0.3, 1.0])
def test_forced_pieces_give_upstreams_samples(retain):
    """Where the source has the model's rate, upstream's overlap has the right size and we must agree."""
    converter, _, _ = fake_converter()
    wav, per, overlap = sung(7.77, 16000), int(1.3 * 16000), int(0.4 * 16000)
    mixed = int(overlap * retain)
    left = (overlap - mixed) // 2
    right = overlap - mixed - left
    ramp = np.linspace(0, 1, mixed)
    expected = by_hand(converter, wav[:per], 16000)
    for start in range(per, len(wav), per):
        chunk = by_hand(converter, wav[start - overlap : start + per], 16000)
        end = len(expected) - right
        mix = expected[end - mixed : end] * (1 - ramp) + chunk[left : left + mixed] * ramp
        expected = np.concatenate([expected[: end - mixed], mix, chunk[left + mixed :]])
    options = ConversionOptions("alto", clip_seconds=1.3, overlap_seconds=0.4, overlap_retain=retain)
    assert np.allclose(converter.convert_wav(wav, 16000, options), expected, atol=1e-6)


@pytest.mark.parametrize("rate", [16000, 22050, 48000])
@pytest.mark.parametrize(("clip", "overlap", "retain"), [(1, 0, 0.75), (1.3, 0.4, 0.75), (1.3, 0.4, 1), (2, 1.9, 0.1)])
def test_forced_pieces_keep_length_and_level(rate, clip, overlap, retain):
    converter, _, calls = fake_converter()
    wav = sung(7.77, rate)
    options = ConversionOptions("alto", clip_seconds=clip, overlap_seconds=overlap, overlap_retain=retain)
    out = converter.convert_wav(wav, rate, options)
    assert len(out) == math.ceil(len(wav) * 16000 / rate)
    assert len(calls) == 3 * math.ceil(len(wav) / int(clip * rate))
    if overlap:
        whole = converter.convert_wav(wav, rate, ALTO)
        middle = slice(4000, -4000)
        # Every chunk may lie up to one frame off (its gap is shared between its ends) and fades into its padding.
        assert np.median(np.abs(out - whole)[middle]) < 0.01


def test_the_source_loudness_can_be_laid_over_the_result():
    converter, _, _ = fake_converter()
    wav = sung(8, 16000)
    louder = converter.convert_wav(wav, 16000, ConversionOptions("alto", loudness_ratio=0))
    plain = converter.convert_wav(wav, 16000, ALTO)
    assert len(louder) == len(plain) and not np.allclose(louder, plain)


def test_audio_above_full_scale_is_brought_down_as_a_whole():
    converter, _, _ = fake_converter()
    wav = sung(2, 16000)
    normal = converter.convert_wav(wav / np.abs(wav).max(), 16000, ALTO)
    loud = converter.convert_wav(wav * 100, 16000, ALTO)
    assert np.allclose(normal, loud, atol=1e-5)


def test_array_and_file_give_the_same(tmp_path):
    converter, _, _ = fake_converter()
    wav = np.concatenate([sung(3, 44100), silence(1, 44100), sung(2, 44100)])
    stereo = np.stack([wav, wav], axis=1)
    soundfile.write(tmp_path / "in.wav", stereo, 44100, subtype="FLOAT")
    report = converter.convert(tmp_path / "in.wav", tmp_path / "out.flac", ALTO, progress=False)
    written, rate = soundfile.read(tmp_path / "out.flac", dtype="float32")
    expected = converter.convert_wav(wav, 44100, ALTO)
    assert rate == 16000 and len(written) == len(expected) == math.ceil(len(wav) * 16000 / 44100)
    assert np.abs(written - expected).max() <= 1 / 32767
    assert report.seconds == pytest.approx(len(expected) / 16000)
    assert 0 < report.voiced_seconds <= report.seconds


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff", "mp3"])
def test_results_come_in_every_usual_format(tmp_path, suffix):
    converter, _, _ = fake_converter()
    soundfile.write(tmp_path / "in.wav", sung(2, 16000), 16000)
    out = tmp_path / f"out.{suffix}"
    converter.convert(tmp_path / "in.wav", out, ConversionOptions("alto", output_format=suffix), progress=False)
    assert soundfile.info(out).samplerate == 16000
    assert soundfile.info(out).duration == pytest.approx(2, abs=0.1)


def test_samples_that_are_not_numbers_are_named_with_their_time():
    converter, _, _ = fake_converter()
    wav = sung(15, 16000)
    wav[12 * 16000] = np.nan
    with pytest.raises(AudioError, match=r"12\.000 s"):
        converter.convert_wav(wav, 16000, ALTO)


@pytest.mark.parametrize("wav", [np.zeros(0, np.float32), np.zeros((2, 100), np.float32)])
def test_an_array_that_is_no_clip_is_refused(wav):
    converter, _, _ = fake_converter()
    with pytest.raises(AudioError, match="mono"):
        converter.convert_wav(wav, 16000, ALTO)


def test_a_failure_in_the_middle_keeps_the_old_result_and_what_was_finished(tmp_path):
    converter, synthesizer, _ = fake_converter()
    wav = np.concatenate([sung(6, 16000), silence(6, 16000), sung(6, 16000)])
    soundfile.write(tmp_path / "in.wav", wav, 16000)
    (tmp_path / "out.flac").write_bytes(b"older")
    synthesizer.fails_at_call = 2
    said = r"in\.wav, \d+\.\d to 18\.0 s: not enough memory.*-cl 15.* The first 0:\d\d are kept: .*--resume"
    with pytest.raises(AudioError, match=said):
        converter.convert(tmp_path / "in.wav", tmp_path / "out.flac", ALTO, progress=False)
    kept = f".out.flac.{converter.key(tmp_path / 'in.wav', ALTO)[:8]}.{os.getpid()}.unfinished"
    assert folder_listing(tmp_path) == {"in.wav", "out.flac", kept}
    assert (tmp_path / "out.flac").read_bytes() == b"older"


def test_output_that_is_not_finite_is_refused():
    converter, synthesizer, _ = fake_converter()
    honest = synthesizer.infer

    def broken(*args):
        result = honest(*args)
        result.wav[100] = float("nan")
        return result

    synthesizer.infer = broken
    with pytest.raises(AudioError, match=r"not finite. Try --precision fp32"):
        converter.convert_wav(sung(1, 16000), 16000, ALTO)


def test_half_an_hour_without_a_pause_needs_no_more_memory_than_a_minute(tmp_path):
    resource = pytest.importorskip("resource", reason="Windows has no such measure")
    converter, _, _ = fake_converter()
    rate = 8000
    minute = sung(60, rate)
    path = tmp_path / "half an hour.flac"
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for _ in range(30):
            file.write(minute)
    soundfile.write(tmp_path / "minute.flac", minute, rate)
    converter.convert(tmp_path / "minute.flac", tmp_path / "short_out.flac", ALTO, progress=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    converter.convert(path, tmp_path / "out.flac", ALTO, progress=False)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert soundfile.info(tmp_path / "out.flac").frames == 1800 * 16000
    assert grown_mb < 60, "half an hour of audio at the output rate alone is 115 MB"


@pytest.mark.parametrize(
    ("length", "pad_right", "expected"),
    [(8, 0, [0, 1, 1, 1, 1, 1, 0, 0]), (8, 1, [1, 1, 1, 1, 1, 0, 0, 0]), (3, 0, [1, 1, 1])],
)
def test_trimming_shares_a_gap_and_cuts_what_is_too_much(length, pad_right, expected):
    song, options = Song.from_array(np.ones(8), 16000, 16000), ConversionOptions("alto", pad_seconds=0)
    chunk = Chunk(0, length, 0, length, length, pad_right=pad_right)
    assert trim(np.ones(5, np.float32), chunk, song, options).tolist() == expected


def test_a_song_in_which_no_pitch_is_found_is_named(tmp_path, caplog):
    converter, _, _ = fake_converter()
    soundfile.write(tmp_path / "hum.wav", sung(1, 16000), 16000)
    converter.convert(tmp_path / "hum.wav", tmp_path / "out.wav", ALTO, progress=False)
    assert not caplog.records
    heard = converter.pipeline.predictor.predict

    def hear_nothing(wav):
        found = heard(wav)
        return F0(np.zeros_like(found.f0), np.zeros_like(found.uv))

    converter.pipeline.predictor.predict = hear_nothing
    converter.convert(tmp_path / "hum.wav", tmp_path / "out.wav", ALTO, progress=False)
    assert "hum.wav: no pitch was found anywhere" in caplog.text


@pytest.mark.parametrize("level", [1.0, 0.03])
def test_a_voice_is_given_the_volume_of_its_training_clips_and_brought_back_to_the_songs(level):
    converter, synthesizer, _ = fake_converter(with_volume=True, card={"volume_peak": 0.7})
    plain, _, _ = fake_converter(with_volume=True)
    wav = np.concatenate([sung(2, 16000), silence(1, 16000)]) * np.float32(level)
    out, wanted = converter.convert_wav(wav, 16000, ALTO), plain.convert_wav(wav, 16000, ALTO)
    given = synthesizer.seen[0]["volume"]
    assert float(given.max()) == pytest.approx(0.7)
    # The stand-in does not listen to the volume: what is left is the division by what it was raised by.
    raised = 0.7 / float(frame_volume(torch.from_numpy(wav), 160).max())
    np.testing.assert_allclose(out, wanted / raised, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("card", [{}, {"volume_peak": 0}, {"volume_peak": "loud"}, {"volume_peak": float("nan")}])
def test_a_card_that_says_nothing_of_the_volume_changes_nothing(card):
    converter, synthesizer, _ = fake_converter(with_volume=True, card=card)
    plain, unchanged, _ = fake_converter(with_volume=True)
    assert np.array_equal(*(c.convert_wav(sung(1, 16000), 16000, ALTO) for c in (converter, plain)))
    assert torch.equal(synthesizer.seen[0]["volume"], unchanged.seen[0]["volume"])


def test_next_to_silence_is_not_raised():
    converter, synthesizer, _ = fake_converter(with_volume=True, card={"volume_peak": 0.7})
    options = ConversionOptions("alto", slice_db=-120.0)
    converter.convert_wav(sung(1, 16000) * np.float32(1e-4), 16000, options)
    assert all(float(seen["volume"].max()) < 1e-4 for seen in synthesizer.seen)
