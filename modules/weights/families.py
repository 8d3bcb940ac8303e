"""What a file of weights is, by the names and shapes in it: a voice, its discriminators, a vocoder, an encoder...

The rules for other projects' models are from memory of what those published. So each looks for a name that only that
family has; a file that none of them fits is "unknown", never somebody else's.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from modules.config.fit import NOT_TO_IGNORE, likely_key
from modules.errors import CheckpointError
from modules.pretrained.catalogue import package
from modules.weights.state_dict import fit, tensors_of

logger = logging.getLogger(__name__)

VOICE, DIFFUSION, ENCODER = "voice model", "diffusion model", "speech encoder"
_F0, _TTS, _VOCODER = "f0 network", "text-to-speech voice", "mel vocoder"
_SOVITS = "so-vits-svc 4.0 or 4.1"
_GIVE_DM = "Give it with -dm, its config.yaml with -dc, and the voice with -m."
_CONFIG_BESIDE = "Its config.json belongs beside it."
_GIVE_G = "It serves only to train on. Give the G_*.pth beside it."
_NOT_OURS = "Convert with the project that it was made for, or train a voice here from its recordings."


@dataclass(frozen=True)
class Family:
    """A kind of file and who makes it."""

    kind: str  # what it is, in words
    name: str  # of the project, or of the pretrained model
    has: str  # pattern of a tensor's name that no later family of the table has
    remedy: str = _NOT_OURS  # what to do with such a file where a voice is expected
    is_ours: bool = False  # whether something here can use it


# The first that fits counts: what is special comes before what is general.
_FAMILIES = (
    # VITS in other forms. Voices of so-vits-svc 4.0 and 4.1 have none of these names.
    Family(VOICE, "RVC", r"enc_p\.emb_phone\."),
    Family(VOICE, "GPT-SoVITS", r"enc_p\.ssl_proj\.|enc_p\.mrte\."),
    Family("text model", "GPT-SoVITS", r"model\.ar_(text|audio)_embedding"),
    Family(VOICE, "so-vits-svc 4.0-v2", r"(dec_harm|dec_noise|mel_decoder|posterior_encoder|sin_prenet)\."),
    Family(VOICE, "so-vits-svc 3.0 or older", r"enc_p_\.|enc_p\.pre\.|enc_p\.emb_pitch\."),
    Family(_TTS, "Bert-VITS2", r"enc_p\.(\w+_)?bert_proj"),
    Family(_TTS, "VITS", r"enc_p\.emb\.|dp\.(flows|conv_1|pre)\."),
    # Models that go from units to mel or to sound in other ways.
    Family("model with its own synthesiser in front", "DDSP-SVC", r"ddsp_model\.|unit2ctrl\."),
    Family("rectified-flow model", "DDSP-SVC 6", r"reflow_model\."),
    Family("model with a naive network in front", "Diffusion-SVC", r"(diff_model|naive_model|naive)\."),
    Family(DIFFUSION, "so-vits-svc 4.1 or Diffusion-SVC", r"decoder\.denoise_fn\.input_projection\.", _GIVE_DM, True),
    Family("model whose denoiser is not the WaveNet of 4.1", "Diffusion-SVC", r"decoder\.denoise_fn\.|unit_embed\."),
    Family(VOICE, _SOVITS, r"emb_g\.weight$|enc_p\.(enc_|proj)\.", "Give it with -m, its config.json with -c.", True),
    Family("discriminator", _SOVITS, r"discriminators\.\d", _GIVE_G, True),
    Family(_VOCODER, "NSF-HiFiGAN", r"(generator\.)?(m_source|source_conv)\.|mel_conv", _CONFIG_BESIDE, True),
    Family(_VOCODER, "HiFi-GAN", r"conv_pre\.", "Get the one that is needed: download.py nsf-hifigan."),
    # Pretrained networks.
    Family(_F0, "rmvpe", r"unet\.encoder\.", is_ours=True),
    Family(_F0, "fcpe", r"dense_out\.|output_proj\.weight_g$", is_ours=True),
    Family("speaker encoder", "resemblyzer", r"lstm\.weight_ih_l0$", is_ours=True),
    Family(ENCODER, "whisper", r"(encoder\.)?blocks\.0\.attn\.", is_ours=True),
    Family(ENCODER, "wavlm", r"encoder\.layers\.0\.self_attn\.grep_linear", is_ours=True),
    Family(ENCODER, "hubertsoft", r"feature_extractor\.conv0\.", is_ours=True),
    Family(ENCODER, "dphubert", r"feature_extractor\.dummy_weight|encoder\.transformer\.layers\.", is_ours=True),
    Family(ENCODER, "wav2vec 2.0", r"quantizer\.vars|project_q\."),
    Family(ENCODER, "hubert", r"feature_extractor\.conv_layers\.0\.0\.weight$", is_ours=True),
)
# Entries of a file that say what it is where no tensor does: name of an entry -> family.
_BY_ENTRY = {
    "cluster_centers_": Family("cluster centres", _SOVITS, "", "Give it with -cm.", True),
    "random": Family("state of a training run", "this toolkit", "", "Only train_diff.py reads it.", True),
}
UNKNOWN = Family("unknown", "", "", "Give a file like G_1000.pth.")
# Top-level parts of a voice of so-vits-svc 4.0 and 4.1.
_VOICE_PARTS = frozenset("emb_g emb_vol pre enc_p dec enc_q flow f0_decoder emb_uv".split())
# Family, of encoders with width and depth -> name in the catalogue.
_PACKAGES = {(name,): name for name in ("rmvpe", "fcpe", "hubertsoft", "dphubert")} | {
    ("NSF-HiFiGAN",): "nsf-hifigan",
    ("whisper", 384, 4): "whisper-tiny",
    ("whisper", 512, 6): "whisper-base",
    ("whisper", 768, 12): "whisper-small",
    ("whisper", 1024, 24): "whisper-medium",
    ("whisper", 1280, 32): "whisper-large-v2",
    ("hubert", 768, 12): "contentvec",
    ("hubert", 1024, 24): "cnhubert",
    ("wavlm", 768, 12): "wavlm",
}


@dataclass(frozen=True)
class ModelFile:
    """What a file turned out to be."""

    family: Family  # kind and maker
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)  # as `tensors_of` gives them
    details: tuple[str, ...] = ()  # more that the file says of itself, in words ("v2", "40k")
    package: str | None = None  # its name in the catalogue, for a pretrained model that is in it

    @property
    def title(self) -> str:
        """In words, with its article: "an RVC voice (v2, 40k)"."""
        if self.family is UNKNOWN:
            return "a file of an unknown kind"
        name = f"{self.package or self.family.name} {self.family.kind}"
        details = f" ({', '.join(self.details)})" if self.details else ""
        return f"{'an' if re.match(r'[aeio]|R', name) else 'a'} {name}{details}"

    @property
    def remedy(self) -> str:
        """What to do with it, in a sentence."""
        return f"It belongs in {package(self.package).files[0].path}." if self.package else self.family.remedy


def recognise(content: Mapping[Any, Any]) -> ModelFile:
    """What the content of a file of weights is."""
    weights = tensors_of(content)
    names = "\n".join(weights)
    rvc = _FAMILIES[0]
    said = tuple(content[key] for key in ("version", "sr") if isinstance(content.get(key), str))  # by RVC only
    for family in _FAMILIES:
        if re.search(f"^(?:{family.has})", names, re.MULTILINE):
            return ModelFile(family, weights, said if family is rvc else (), _package_of(family.name, weights))
    for entry, family in _BY_ENTRY.items():
        if entry in content or any(isinstance(value, dict) and entry in value for value in content.values()):
            return ModelFile(family, weights)
    if isinstance(content.get("weight"), dict) and {"sr", "version"} <= content.keys():
        return ModelFile(rvc, weights, said)
    return ModelFile(UNKNOWN, weights)


def voice_weights(content: Mapping[Any, Any], path: Path | str) -> dict[str, torch.Tensor]:
    """The tensors of a voice of so-vits-svc 4.0 or 4.1, from `{"model": tensors}` or, in .safetensors, bare."""
    found = recognise(content)
    family = found.family
    if family is UNKNOWN:
        raise CheckpointError(f"{path}: not a voice model: it holds no emb_g.weight. {family.remedy}")
    if family.kind != VOICE or not family.is_ours:
        what = found.title if family.is_ours else f"{found.title}, another kind of network"
        raise CheckpointError(f"{path}: not a voice model of so-vits-svc 4: it is {what}. {found.remedy}")
    if foreign := sorted({name.split(".")[0] for name in found.weights} - _VOICE_PARTS):
        logger.warning("%s: has parts that so-vits-svc 4.1 has not, not used: %s", path, ", ".join(foreign[:8]))
    return dict(found.weights)


def fit_voice(
    found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], path: Path | str, where: Path | str | None
) -> dict[str, torch.Tensor]:
    """`fit` for the network of a voice, built from the config `where` (None: no file): the message names the config key
    that most likely explains what does not fit."""
    # The width of the units is named first: with another encoder much else differs as well.
    wanted = dict(sorted(wanted.items(), key=lambda item: item[0] != "pre.weight"))
    return fit(found, wanted, path, likely_key, str(where or "the config"), NOT_TO_IGNORE)


def encoder_depth(weights: Mapping[str, torch.Tensor]) -> int:
    """Number of transformer layers in a speech encoder."""
    layers = [re.match(r"(?:encoder\.)?(?:transformer\.)?(?:layers|blocks)\.(\d+)\.", name) for name in weights]
    return 1 + max((int(match[1]) for match in layers if match), default=-1)


def _package_of(name: str, weights: Mapping[str, torch.Tensor]) -> str | None:
    """Name in the catalogue of a pretrained model that it holds, by its sizes."""
    biases = {"whisper": "blocks.0.attn.out.bias", "hubert": "self_attn.k_proj.bias", "wavlm": "self_attn.k_proj.bias"}
    if name not in biases:
        return _PACKAGES.get((name,))
    width = next((value.numel() for key, value in weights.items() if key.endswith(biases[name])), 0)
    return _PACKAGES.get((name, width, encoder_depth(weights)))
