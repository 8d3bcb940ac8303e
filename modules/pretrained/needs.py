"""What an encoder and an F0 predictor need, known before torch is loaded: names, and the files that are missing."""

import re

from modules.errors import MissingWeights
from modules.pretrained.catalogue import PACKAGES
from modules.pretrained.find import require
from modules.registry import require_declared

_CARRIED = ("whisper-ppg-base", "fcpe")  # run without the file that the catalogue has for them


def require_parts(encoder: str | None = None, predictor: str | None = None) -> None:
    """Refuses unknown names (UsageError) and names every file that is missing, with its source (MissingWeights)."""
    wanted = {"--f0_predictor": predictor, "--speech_encoder": encoder}
    if predictor is not None:
        require_declared("f0 predictor", "modules.f0", predictor)
    if encoder is not None:
        require_declared("speech encoder", "modules.encoders", encoder)
    problems = []
    for package in PACKAGES:
        flag, _, names = package.needed_by.partition(" ")
        if wanted.get(flag) in _CARRIED or wanted.get(flag) not in re.split(", ?", names):
            continue
        try:
            require(*package.files)
        except MissingWeights as error:
            problems.append(str(error))
    if problems:
        raise MissingWeights("; ".join(problems))
