"""The optional predictor: its package is asked for by name where it is missing, and used at its own rate."""

import sys

import golden_rule
import numpy as np
import pytest
from signals import sung

from modules.config.audio import AudioSpec
from modules.errors import UsageError
from modules.f0.base import build_predictor, predictor_identity

AUDIO = AudioSpec(44100, 2048, 512, 2048, 80, 0.0, 22050.0)


def test_without_its_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "swift_f0", None)
    for ask in (lambda: build_predictor("swift", AUDIO, device="cpu"), lambda: predictor_identity("swift")):
        with pytest.raises(UsageError, match=r"pip install swift-f0==") as error:
            ask()
        assert "\n" not in str(error.value)


def test_it_tracks_what_the_package_tracks():
    package = pytest.importorskip("swift_f0")
    wav = sung(np.geomspace(120, 700, 60000), 16000)
    at_16k = AudioSpec(16000, 1024, 256, 1024, 80, 0.0, 8000.0)
    found = build_predictor("swift", at_16k, threshold=0.05, device="cpu").predict(wav)
    wanted = package.SwiftF0(threads=1).detect(wav, 16000, 50.0, 1100.0)
    voiced = wanted.confidence > 0.05
    np.testing.assert_array_equal(found.uv > 0, voiced)
    np.testing.assert_allclose(found.f0[voiced], wanted.pitch_hz[voiced], rtol=1e-6)


def test_the_threshold_is_honoured():
    pytest.importorskip("swift_f0")
    wav = golden_rule.load_golden("rule/f0_predictors")["in_wav_int16"] / 32768
    shares = [
        build_predictor("swift", AUDIO, threshold=threshold, device="cpu").predict(wav).uv.mean()
        for threshold in (0.01, 0.3, 0.9, 1.0)
    ]
    assert shares[0] > shares[1] > shares[2] > shares[3] == 0


def test_a_wave_in_windows_equals_the_wave_at_once(monkeypatch):
    package = pytest.importorskip("swift_f0")
    predictor = build_predictor("swift", AUDIO, device="cpu")
    wav = sung(np.geomspace(120, 700, 6 * 44100), 44100)
    whole = predictor.predict(wav)
    monkeypatch.setattr(package.core, "WINDOW_FRAMES", 50)
    windows = predictor.predict(wav)
    # The windows overlap by all that a frame sees; what is left is the rounding of another length.
    np.testing.assert_allclose(windows.f0, whole.f0, rtol=1e-4)
    np.testing.assert_array_equal(windows.uv, whole.uv)


def test_limits_it_cannot_keep_are_refused():
    pytest.importorskip("swift_f0")
    predictor = build_predictor("swift", AUDIO, device="cpu", f0_min=400.0, f0_max=401.0)
    with pytest.raises(UsageError, match="swift cannot look between 400 and 401 Hz"):
        predictor.predict(sung(np.full(9000, 220.0), 44100))


def test_the_identity_has_the_version():
    pytest.importorskip("swift_f0")
    assert predictor_identity("swift") == "swift:swift-f0-0.3.0"
