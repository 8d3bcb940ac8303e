"""Devices by name and number, with a stand-in for the sound card."""

import sys

import numpy as np
import pytest
from fake_sound_card import FakeSoundCard

from modules.errors import UsageError
from modules.realtime.devices import Connection, choose_format, find_device, import_sounddevice, list_devices


def test_every_device_has_a_line_and_the_systems_choice_a_star():
    lines = list_devices(FakeSoundCard())
    assert lines[0] == "*   0  Mikrofon (Übung) (MME, 2 input, 48000 Hz)"
    assert lines[2] == "*   2  Lautsprecher (MME, 2 output, 48000 Hz)" and lines[3].startswith("    3")


@pytest.mark.parametrize(
    ("wanted", "is_input", "index"),
    [(None, True, 0), (None, False, 2), ("1", True, 1), ("übung", True, 0), ("headset", True, 3)],
)
def test_a_device_is_found_by_number_or_part_of_its_name(wanted, is_input, index):
    assert find_device(FakeSoundCard(), wanted, is_input).index == index


@pytest.mark.parametrize(
    ("wanted", "is_input", "text"),
    [
        ("guitar", True, r"--device_in guitar: no microphone is called so. There are: 0 Mikrofon \(Übung\), 1 Headset"),
        ("0", False, "--device_out 0: no output is called so. There are: 2 Lautsprecher"),
        ("e", True, r"several are called so \(1, 3\); give a number|no microphone"),
    ],
)
def test_an_unknown_device_is_answered_with_the_known_ones(wanted, is_input, text):
    card = FakeSoundCard()
    card.devices[3]["hostapi"] = 0  # so that no interface is the better one
    with pytest.raises(UsageError, match=text):
        find_device(card, wanted, is_input)


def test_a_computer_without_a_microphone_is_told_so():
    card = FakeSoundCard()
    card.defaults["input"] = None
    with pytest.raises(UsageError, match=r"--device_in: the system has chosen no microphone. Name one of: 0"):
        find_device(card, None, True)
    card.devices = card.devices[2:3]
    with pytest.raises(UsageError, match="--device_in: there is no microphone"):
        find_device(card, None, True)


def test_the_rate_is_the_devices_own_then_the_models():
    device = find_device(FakeSoundCard(), None, True)
    assert choose_format(FakeSoundCard((44100, 48000)), device, 44100) == (48000, 1)
    assert choose_format(FakeSoundCard((32000,)), device, 32000) == (32000, 1)
    with pytest.raises(UsageError, match=r"Mikrofon .*: takes none of 48000, 32000, 44100 Hz .*Invalid sample rate"):
        choose_format(FakeSoundCard((8000,)), device, 32000)


def test_sound_goes_from_the_microphone_to_all_channels_of_the_output():
    card, heard = FakeSoundCard(), []
    devices = find_device(card, None, True), find_device(card, None, False)
    connection = Connection(card, devices, 44100, heard.append, lambda n: np.full(n, 0.5, np.float32))
    connection.start()
    microphone, output = card.streams
    microphone.record(np.arange(4, dtype=np.float32), overflow=True)
    np.testing.assert_array_equal(heard[0], [0, 1, 2, 3])
    np.testing.assert_array_equal(output.play(3), np.full((3, 2), 0.5))
    assert connection.is_active and connection.n_overflows == 1 and connection.latency == pytest.approx(0.02)
    connection.close()
    assert not connection.is_active and all(stream.is_closed for stream in card.streams)


@pytest.mark.parametrize(("interface", "latency"), [(1, "low"), (2, "high")])
def test_the_lowest_latency_is_asked_for_where_it_works(interface, latency):
    card = FakeSoundCard()
    for device in card.devices:
        device["hostapi"] = interface
    Connection(card, (find_device(card, None, True), find_device(card, None, False)), 48000, print, np.zeros)
    assert [stream.wanted_latency for stream in card.streams] == [latency] * 2


def test_a_device_that_another_program_holds_is_named_and_the_other_one_let_go():
    card = FakeSoundCard()
    devices = find_device(card, None, True), find_device(card, None, False)
    card.busy = {2}
    with pytest.raises(UsageError, match=r"--device_out Lautsprecher: cannot be opened .*Close other programs"):
        Connection(card, devices, 44100, print, print)
    assert card.streams[0].is_closed
    card.busy, card.gone = set(), {0}
    with pytest.raises(UsageError, match="a device cannot be started"):
        Connection(card, devices, 44100, print, print).start()


def test_a_missing_package_and_a_missing_library_have_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UsageError, match=r"pip install -r requirements-realtime.txt"):
        import_sounddevice()
    monkeypatch.delitem(sys.modules, "sounddevice")
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="sudo apt install libportaudio2"):
        import_sounddevice()
