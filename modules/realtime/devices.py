"""Sound cards, by the package sounddevice (PortAudio), which only this file knows."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from modules.errors import UsageError
from modules.text import listing, printable

USUAL_RATES = (48000, 44100)  # Hz
_SHAKY_INTERFACES = ("ALSA",)  # at the lowest latency (9 ms) PulseAudio behind it loses a third of all samples
# Windows lists every device once for each of its interfaces: of equal names the one with the lowest latency is meant.
PREFERRED_INTERFACES = ("Windows WASAPI", "Core Audio", "ALSA")


def import_sounddevice() -> ModuleType:
    """The package; a UsageError that says how to get it, or PortAudio itself."""
    try:
        import sounddevice
    except ImportError:
        raise UsageError(
            "realtime.py needs the package sounddevice: pip install -r requirements-realtime.txt (--from and --to work "
            "without it)"
        ) from None
    except OSError:  # sounddevice is there, but not the library that it calls
        raise UsageError(
            "sounddevice finds no PortAudio. Install the system's: sudo apt install libportaudio2 (Fedora: portaudio, "
            "Arch: portaudio)"
        ) from None
    return sounddevice


@dataclass(frozen=True)
class Device:
    """A microphone or an output."""

    index: int  # PortAudio's
    name: str
    is_input: bool
    channels: int  # the most that it has
    rate: int  # Hz, its usual one

    @property
    def flag(self) -> str:
        """The flag that chooses it."""
        return "--device_in" if self.is_input else "--device_out"


def list_devices(sd: ModuleType) -> list[str]:
    """A line for each device: number, name, interface, what it can do, whether it is the system's choice."""
    lines, defaults = [], {_default(sd, is_input) for is_input in (True, False)} - {None}
    for index, found in enumerate(sd.query_devices()):
        kinds = [f"{found[f'max_{kind}_channels']} {kind}" for kind in ("input", "output")]
        kinds = " and ".join(text for text in kinds if not text.startswith("0 "))
        mark = "*" if index in defaults else " "
        where = f"{_interface(sd, found)}, {kinds}, {found['default_samplerate']:.0f} Hz"
        lines.append(f"{mark}{index:4d}  {printable(found['name'])} ({where})")
    return lines


def find_device(sd: ModuleType, wanted: str | None, is_input: bool) -> Device:
    """The device of that number, or with that in its name; the system's for None. An error lists those there are."""
    devices = dict(enumerate(sd.query_devices()))
    kind = "input" if is_input else "output"
    usable = {index: found for index, found in devices.items() if found[f"max_{kind}_channels"] > 0}
    flag, what = ("--device_in", "microphone") if is_input else ("--device_out", "output")
    known = listing(f"{index} {found['name']}" for index, found in usable.items())
    if not usable:
        raise UsageError(f"{flag}: there is no {what}. Plug one in; python realtime.py --list_devices shows all")
    if wanted is None:
        index = _default(sd, is_input)
        if index not in usable:
            raise UsageError(f"{flag}: the system has chosen no {what}. Name one of: {known}")
        matches = [index]
    elif wanted.isdecimal():
        matches = [int(wanted)] if int(wanted) in usable else []
    else:
        matches = _matches(sd, usable, wanted)
    if len(matches) != 1:
        numbers = ", ".join(map(str, matches))
        problem = f"several are called so ({numbers}); give a number" if matches else f"no {what} is called so"
        raise UsageError(f"{flag} {printable(wanted)}: {problem}. There are: {known}")
    found = usable[matches[0]]
    name, channels = printable(found["name"]), found[f"max_{kind}_channels"]
    return Device(matches[0], name, is_input, channels, round(found["default_samplerate"]))


def choose_format(sd: ModuleType, device: Device, model_rate: int) -> tuple[int, int]:
    """Rate in Hz and channels that a device takes: its own rate first, then the model's and usual ones."""
    check = sd.check_input_settings if device.is_input else sd.check_output_settings
    wanted = 1 if device.is_input else min(2, device.channels)
    rates = list(dict.fromkeys([device.rate, model_rate, *USUAL_RATES]))
    reason = ""
    for rate in rates:
        for channels in dict.fromkeys([wanted, device.channels]):
            try:
                check(device=device.index, channels=channels, dtype="float32", samplerate=rate)
                return rate, channels
            except (sd.PortAudioError, ValueError) as error:
                reason = " ".join(str(error).split())
    tried = ", ".join(map(str, rates))
    raise UsageError(f"{device.flag} {device.name}: takes none of {tried} Hz ({reason}). Choose another device")


class Connection:
    """A microphone and an output that run until it is closed.

    `hear` is given (T,) samples, `play` is asked for (T,); both are called by threads of PortAudio and must not wait.
    """

    def __init__(
        self,
        sd: ModuleType,
        devices: tuple[Device, Device],
        model_rate: int,
        hear: Callable[[np.ndarray], None],
        play: Callable[[int], np.ndarray],
    ) -> None:
        """Opens both without starting them; a UsageError where that cannot be done."""
        self.devices, self.n_overflows = devices, 0
        (self.rate_in, channels_in), (self.rate_out, channels_out) = (
            choose_format(sd, device, model_rate) for device in devices
        )

        def on_input(data: np.ndarray, n_samples: int, moment: Any, status: Any) -> None:
            self.n_overflows += bool(status and status.input_overflow)
            hear(data[:, 0].copy())

        def on_output(data: np.ndarray, n_samples: int, moment: Any, status: Any) -> None:
            data[:] = play(n_samples)[:, None]

        self._streams = []
        formats = ((sd.InputStream, channels_in, on_input), (sd.OutputStream, channels_out, on_output))
        for device, rate, (kind, channels, callback) in zip(devices, (self.rate_in, self.rate_out), formats):
            settings = {"device": device.index, "samplerate": rate, "channels": channels, "dtype": "float32"}
            is_shaky = _interface(sd, sd.query_devices()[device.index]) in _SHAKY_INTERFACES
            try:
                self._streams.append(kind(**settings, latency="high" if is_shaky else "low", callback=callback))
            except (sd.PortAudioError, ValueError) as error:
                self.close()
                problem = f"{device.flag} {device.name}: cannot be opened ({' '.join(str(error).split())})"
                raise UsageError(f"{problem}. Close other programs that use it, or choose another") from None
        self._error = sd.PortAudioError

    @property
    def latency(self) -> float:
        """Seconds that both devices need themselves, as they say."""
        return sum(float(stream.latency) for stream in self._streams)

    @property
    def is_active(self) -> bool:
        """Whether both run."""
        try:
            return all(stream.active for stream in self._streams)
        except self._error:
            return False

    def start(self) -> None:
        """Starts both; a UsageError where one is gone."""
        try:
            for stream in self._streams:
                stream.start()
        except self._error as error:
            self.close()
            raise UsageError(f"a device cannot be started ({' '.join(str(error).split())}); plug it in again") from None

    def close(self) -> None:
        """Ends both; a device that is gone is not in the way."""
        for stream in self._streams:
            stream.close(ignore_errors=True)


def look_again(sd: ModuleType) -> None:
    """Lets PortAudio find devices that were plugged in since it began; no stream may be open."""
    sd._terminate()  # the package has no public name for it
    sd._initialize()


def _default(sd: ModuleType, is_input: bool) -> int | None:
    """The number of the system's choice."""
    try:
        return sd.query_devices(kind="input" if is_input else "output")["index"]
    except (sd.PortAudioError, ValueError):
        return None


def _matches(sd: ModuleType, usable: dict[int, dict], wanted: str) -> list[int]:
    """The numbers of the devices with that in their names: exact names first, then the preferred interface."""
    text = wanted.casefold()
    found = [index for index, device in usable.items() if device["name"].casefold() == text]
    found = found or [index for index, device in usable.items() if text in device["name"].casefold()]
    for interface in PREFERRED_INTERFACES if len(found) > 1 else ():
        preferred = [index for index in found if _interface(sd, usable[index]) == interface]
        if len(preferred) == 1:
            return preferred
    return found


def _interface(sd: ModuleType, device: dict) -> str:
    return sd.query_hostapis(device["hostapi"])["name"]
