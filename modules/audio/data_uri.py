"""Addresses that hold a sound or a picture itself, for pages in one file that load nothing."""

import base64
import io

import numpy as np
import soundfile

_BLOCK = 65536  # samples; libsndfile's Vorbis encoder puts what it is given at once on the stack


def audio_uri(wav: np.ndarray, rate: int, exact: bool = False) -> str:
    """The address of a sound (T,) in [-1, 1] at `rate` Hz that holds the sound itself, as Ogg Vorbis; `exact` as FLAC
    of 16 bits, about four times as long."""
    buffer, form, subtype = io.BytesIO(), *(("FLAC", "PCM_16") if exact else ("OGG", "VORBIS"))
    with soundfile.SoundFile(buffer, "w", rate, 1, subtype, format=form) as file:
        for start in range(0, len(wav), _BLOCK):
            file.write(np.clip(wav[start : start + _BLOCK], -1, 1))
    return data_uri(f"audio/{form.lower()}", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """The address of a file of that MIME type that holds the file itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
