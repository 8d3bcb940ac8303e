"""A stand-in for the package sounddevice: two microphones and an output, whose callbacks a test makes itself."""

from types import SimpleNamespace

import numpy as np


class PortAudioError(Exception):
    pass


class Stream:
    latency = 0.01

    def __init__(self, card, device, samplerate, channels, dtype, latency, callback):
        if device in card.busy:
            raise PortAudioError("Device unavailable [PaErrorCode -9985]")
        self.card, self.device, self.rate, self.channels, self.callback = card, device, samplerate, channels, callback
        self.wanted_latency = latency
        self.active = self.is_closed = False
        card.streams.append(self)

    def start(self):
        if self.device in self.card.gone:
            raise PortAudioError("Device unavailable [PaErrorCode -9985]")
        self.active = True

    def close(self, ignore_errors=True):
        self.active, self.is_closed = False, True

    def record(self, wav, overflow=False):
        """Hands (T,) to the program."""
        self.callback(wav[:, None].repeat(self.channels, 1), len(wav), None, SimpleNamespace(input_overflow=overflow))

    def play(self, n_samples):
        """Asks the program for (T, C)."""
        data = np.full((n_samples, self.channels), np.nan, np.float32)
        self.callback(data, n_samples, None, None)
        return data


class FakeSoundCard:
    """The functions that realtime.py calls."""

    PortAudioError = PortAudioError

    def __init__(self, rates=(48000,)):
        self.rates, self.busy, self.gone, self.streams, self.n_looks = rates, set(), set(), [], 0
        self.devices = [
            self._device("Mikrofon (Übung)", 2, 0, 0),
            self._device("Headset", 1, 0, 0),
            self._device("Lautsprecher", 0, 2, 0),
            self._device("Headset", 1, 0, 1),
        ]
        self.defaults = {"input": 0, "output": 2}

    def _device(self, name, n_in, n_out, interface):
        return {
            "name": name,
            "hostapi": interface,
            "max_input_channels": n_in,
            "max_output_channels": n_out,
            "default_samplerate": 48000.0,
        }

    def query_devices(self, kind=None):
        if kind is None:
            return self.devices
        if self.defaults[kind] is None:
            raise PortAudioError("Error querying device -1")
        return self.devices[self.defaults[kind]] | {"index": self.defaults[kind]}

    def query_hostapis(self, index):
        return {"name": ("MME", "Windows WASAPI", "ALSA")[index]}

    def check_input_settings(self, device, channels, dtype, samplerate):
        if samplerate not in self.rates:
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")

    check_output_settings = check_input_settings

    def InputStream(self, **settings):
        return Stream(self, **settings)

    OutputStream = InputStream

    def _terminate(self):
        self.n_looks += 1

    def _initialize(self):
        pass
