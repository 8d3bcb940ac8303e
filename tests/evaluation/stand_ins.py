"""Stand-ins for the optional scorers of an evaluation, and a reader of its page."""

import sys
from html.parser import HTMLParser
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

EMPTY = {"meta", "img", "br", "link", "input"}  # elements without an end


def install(monkeypatch, name: str, **content) -> None:
    """A package of that name with that content."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


def uninstall(monkeypatch, *names: str) -> None:
    """Packages of these names are not there."""
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def install_whisper(monkeypatch) -> SimpleNamespace:
    """A faster-whisper that transcribes `words`, or raises `error`; `asked` is what it was called with."""
    whisper = SimpleNamespace(words=[" Sing, ", "my song "], asked=[], error=None)

    class WhisperModel:
        supported_languages = ("en", "it")

        def __init__(self, name, **settings):
            if (Path(name) / "model.bin").read_bytes() == b"damaged":
                raise RuntimeError("cannot read\nthe weights")
            whisper.asked.append((name, settings))

        def transcribe(self, wav, **settings):
            if whisper.error:
                raise whisper.error
            whisper.asked.append((len(wav), settings))
            segments = (SimpleNamespace(text=text) for text in whisper.words)
            return segments, SimpleNamespace(language=settings["language"] or "en")

    install(monkeypatch, "faster_whisper", WhisperModel=WhisperModel)
    return whisper


def make_whisper_folder(folder: Path, weights: bytes = b"") -> Path:
    """A folder that looks like a Whisper model for CTranslate2."""
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(weights)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).touch()
    return folder


def install_dnsmos(monkeypatch) -> None:
    """A speechmos whose score is the number of samples / 10000."""

    def run(sample, sr):
        assert sr == 16000 and np.abs(sample).max() <= 1 and sample.dtype == np.float32
        return {"ovrl_mos": np.float64(len(sample) / 10000), "p808_mos": 1.0}

    install(monkeypatch, "speechmos", dnsmos=SimpleNamespace(run=run))
    for needed in ("onnxruntime", "requests"):
        install(monkeypatch, needed)


class Reader(HTMLParser):
    """Elements with their attributes, and the text outside style and script; refuses ends that do not fit."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def addresses(self) -> list[str]:
        """Everything that the page links to or loads."""
        return [attributes[name] for _, attributes in self.elements for name in ("src", "href") if name in attributes]
