"""Forms as they come in, in pieces of any size and with any damage."""

import asyncio
from collections.abc import Iterable

import numpy as np
import pytest

from modules.server.limits import Limits
from modules.server.refusals import Refusal
from modules.server.uploads import Form, read_form

CONTENT = bytes(range(256)) * 4 + b"\r\n--x\r\n--other--\r\n"
BODY = (
    b'--bound\r\nContent-Disposition: form-data; name="speaker"\r\n\r\nalto \xc3\xa4\r\n'
    b'--bound\r\nContent-Disposition: form-data; name="song"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    + CONTENT
    + b"\r\n--bound--\r\n"
)


class Request:
    """The two things that are asked of a request."""

    def __init__(self, blocks: Iterable[bytes], **headers: str) -> None:
        self.headers = {"content-type": "multipart/form-data; boundary=bound", **headers}
        self._blocks = blocks

    async def stream(self):
        for block in self._blocks:
            yield block


def read(blocks: Iterable[bytes], path, max_mb: float = 1.0, **headers: str) -> Form:
    return asyncio.run(read_form(Request(blocks, **headers), path, ("song",), Limits(max_mb=max_mb)))


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_a_form_is_the_same_in_pieces_of_any_size(tmp_path, size):
    form = read((BODY[at : at + size] for at in range(0, len(BODY), size)), tmp_path / "song")
    assert form.fields == {"speaker": ["alto ä"]} and form.name == "a.wav"
    assert form.song.read_bytes() == CONTENT


def test_a_name_in_its_other_spelling_is_a_file_too(tmp_path):
    form = read([BODY.replace(b'filename="a.wav"', b"filename*=utf-8''..%2Fk%C3%B6ln.wav")], tmp_path / "song")
    assert form.name == "köln.wav" and form.song.read_bytes() == CONTENT


def test_damage_is_a_refusal_and_nothing_else(tmp_path):
    draws, n_refused = np.random.default_rng(0), 0
    for _ in range(150):
        body = bytearray(BODY)
        for place in draws.integers(len(body), size=draws.integers(1, 6)):
            body[place] = draws.integers(256)
        del body[draws.integers(len(body) // 2, 2 * len(body)) :]
        try:
            assert read([bytes(body)], tmp_path / "song").song == tmp_path / "song"
        except Refusal as refusal:
            assert refusal.status in (400, 413, 415) and "\n" not in str(refusal)
            n_refused += 1
    assert 30 < n_refused < 150


def test_no_more_than_the_cap_is_read_or_written_whatever_is_announced(tmp_path):
    taken = []

    def blocks():
        yield BODY[:200]
        for _ in range(1000):
            taken.append(65536)
            yield bytes(65536)

    with pytest.raises(Refusal, match=r"more than 0\.5 MB"):
        read(blocks(), tmp_path / "song", 0.5, **{"content-length": "10"})
    assert (tmp_path / "song").stat().st_size <= 1 << 19 and sum(taken) < (1 << 19) + 2 * 65536
    taken.clear()
    with pytest.raises(Refusal, match=r"more than 0\.5 MB"):
        read(blocks(), tmp_path / "song", 0.5, **{"content-length": "99999999"})
    assert not taken


@pytest.mark.parametrize("text, times, words", [(b"x" * (1 << 17), 1, "more than 64 kB"), (b"x", 300, "200 fields")])
def test_fields_are_bounded_too(tmp_path, text, times, words):
    field = b'--bound\r\nContent-Disposition: form-data; name="speaker"\r\n\r\n' + text + b"\r\n"
    with pytest.raises(Refusal, match=words):
        read([field * times], tmp_path / "song")
