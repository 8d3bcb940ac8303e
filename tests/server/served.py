"""A server in this process on a free port, whose voice is made of stand-ins and can be held in the middle of a song."""

import io
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import soundfile
from inference.fake_voice import FakeSynthesizer, fake_converter, sung

from modules.f0.histogram import PitchHistogram
from modules.inference.keyword_options import loading_options
from modules.inference.loaded_voice import LoadedVoice
from modules.listening import bind
from modules.server.limits import Limits
from modules.server.listen import Server

CARD = {"name": "fake", "licence": "CC0"}


class HeldSynthesizer(FakeSynthesizer):
    """Waits in each chunk while `may_go` is not set."""

    def __init__(self) -> None:
        super().__init__([])
        self.may_go, self.entered = threading.Event(), threading.Event()
        self.may_go.set()

    def infer(self, *args, **options):
        self.entered.set()
        assert self.may_go.wait(30)
        return super().infer(*args, **options)


def fake_voice(**options) -> LoadedVoice:
    """A voice with the speakers alto and tenor at 16 kHz; `voice.held` is its synthesizer."""
    held = HeldSynthesizer()
    notes = PitchHistogram.from_curve(np.full(500, 300.0), np.ones(500))
    card = {**CARD, "f0_histograms": {"alto": notes.to_plain()}}
    converter = fake_converter(synthesizer=held, card=card)[0]
    model = Path("/srv/secret/logs/fake/G_8000.pth")
    voice = LoadedVoice(converter, loading_options(model, options), model, lambda: {"alto": notes}, None)
    voice.held = held
    return voice


def song(seconds: float = 2.0, rate: int = 16000, form: str = "WAV", seed: int = 0) -> bytes:
    """A file with a sung tone."""
    file = io.BytesIO()
    soundfile.write(file, sung(seconds, rate, seed), rate, format=form)
    return file.getvalue()


class Running:
    """A server that runs in a thread."""

    def __init__(self, folder: Path, voice: LoadedVoice, token: str | None, limits: Limits) -> None:
        self.folder, self.voice = folder, voice
        self.listener = bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.server = Server({"fake": voice, "other": fake_voice()}, folder, token, limits)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.thread.start()
        until(lambda: self.server.started)
        self.client = new_client(self.url)

    def convert(self, content: bytes, name: str = "song.wav", route: str = "/convert", **fields) -> httpx.Response:
        return self.client.post(route, files={"song": (name, content)}, data={"speaker": "alto", **fields})

    def background(self, content: bytes, **fields) -> "Background":
        """`convert` in a thread, once the server has taken the song in."""
        return Background(self, content, fields)

    @property
    def gauges(self) -> dict[str, float]:
        return self.server.queue.gauges()

    def files(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*"))

    def stop(self) -> None:
        self.voice.held.may_go.set()
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive() and self.server.queue.close(30)
        self.client.close()


class Background(threading.Thread):
    """A request that another thread sends; `answer` waits for its answer."""

    def __init__(self, running: Running, content: bytes, fields: dict) -> None:
        super().__init__(daemon=True)
        self._running, self._content, self._fields, self._answer = running, content, fields, None
        self.start()

    def run(self) -> None:
        with new_client(self._running.url) as client:
            files, data = {"song": ("song.wav", self._content)}, {"speaker": "alto", **self._fields}
            self._answer = client.post("/convert", files=files, data=data)

    @property
    def answer(self) -> httpx.Response:
        self.join(30)
        return self._answer


def new_client(url: str) -> httpx.Client:
    """A client that reads no certificates, which takes longer than a conversion here."""
    return httpx.Client(base_url=url, timeout=30, trust_env=False, verify=False)


@contextmanager
def serving(folder: Path, token: str | None = None, voice: LoadedVoice | None = None, **limits):
    """A server whose files lie in `folder`, ended at the end."""
    folder.mkdir(exist_ok=True)
    running = Running(folder, voice or fake_voice(), token, Limits(**limits))
    try:
        yield running
    finally:
        running.stop()


def until(is_so, seconds: float = 20.0) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
