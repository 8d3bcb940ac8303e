"""What a file of weights is, told from names and shapes in it: a voice, its discriminators, a vocoder, an encoder...

Nothing is loaded here: `recognise` takes what `load_weights` or `load_foreign` returned. The rules for other projects'
models are from memory of what those projects published. So each looks for a name that only that family has; a file that
none of them fits is "unknown", never somebody else's.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from modules.errors import CheckpointError
from modules.pretrained.catalogue import package
from modules.weights.state_dict import tensors_of

logger = logging.getLogger(__name__)

VOICE, DIFFUSION, ENCODER = "voice model", "diffusion model", "speech encoder"
_NOT_OURS = "Convert with the project that it was made for, or train a voice here from its recordings."


@dataclass(frozen=True)
class Family:
    """A kind of file and who makes it.

    Args:
        kind: what it is, in words.
        name: of the project, or of the pretrained model.
        has: pattern of a tensor's name that tells it from all that come later in the table.
        remedy: what to do with such a file where a voice is expected.
        is_ours: whether something here can use it.
    """

    kind: str
    name: str
    has: str
    remedy: str = _NOT_OURS
    is_ours: bool = False


# The first that fits counts: what is special comes before what is general.
_FAMILIES = (
    # VITS in other forms. Voices of so-vits-svc 4.0 and 4.1 have none of these names.
    Family(VOICE, "RVC", r"enc_p\.emb_phone\."),
    Family(VOICE, "GPT-SoVITS", r"enc_p\.ssl_proj\.|enc_p\.mrte\."),
    Family("text model", "GPT-SoVITS", r"model\.ar_(text|audio)_embedding"),
    Family(VOICE, "so-vits-svc 4.0-v2", r"(dec_harm|dec_noise|mel_decoder|posterior_encoder|sin_prenet)\."),
    Family(VOICE, "so-vits-svc 3.0 or older", r"enc_p_\.|enc_p\.pre\.|enc_p\.emb_pitch\."),
    Family("text-to-speech voice", "Bert-VITS2", r"enc_p\.(\w+_)?bert_proj"),
    Family("text-to-speech voice", "VITS", r"enc_p\.emb\.|dp\.(flows|conv_1|pre)\."),
    # Models that go from units to mel or to sound in other ways.
    Family("model with its own synthesiser in front", "DDSP-SVC", r"ddsp_model\.|unit2ctrl\."),
    Family("rectified-flow model", "DDSP-SVC 6", r"reflow_model\."),
    Family("model with a naive network in front", "Diffusion-SVC", r"(diff_model|naive_model|naive)\."),
    Family(
        DIFFUSION,
        "so-vits-svc 4.1 or Diffusion-SVC",
        r"decoder\.denoise_fn\.input_projection\.",
        "Give it with -dm, its config.yaml with -dc, and the voice with -m.",
        True,
    ),
    Family("model whose denoiser is not the WaveNet of 4.1", "Diffusion-SVC", r"decoder\.denoise_fn\.|unit_embed\."),
    Family(
        VOICE,
        "so-vits-svc 4.0 or 4.1",
        r"emb_g\.weight$|enc_p\.(enc_|proj)\.",
        "Give it with -m, and its config.json with -c.",
        True,
    ),
    Family(
        "discriminator",
        "so-vits-svc 4.0 or 4.1",
        r"discriminators\.\d",
        "It serves only to train on. Give the G_*.pth beside it.",
        True,
    ),
    Family(
        "mel vocoder",
        "NSF-HiFiGAN",
        r"(generator\.)?m_source\.|mel_conv",
        "It belongs in pretrain/nsf_hifigan/model, its config.json beside it.",
        True,
    ),
    Family("mel vocoder", "HiFi-GAN", r"conv_pre\.", "Get the one that is needed: download.py nsf-hifigan."),
    # Pretrained networks.
    Family("f0 network", "rmvpe", r"unet\.encoder\.", is_ours=True),
    Family("f0 network", "fcpe", r"dense_out\.|output_proj\.weight_g$", is_ours=True),
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
    "cluster_centers_": Family("cluster centres", "so-vits-svc 4.0 or 4.1", "", "Give it with -cm.", True),
    "random": Family("state of a training run", "this toolkit", "", "Only train_diff.py reads it.", True),
}
UNKNOWN = Family("unknown", "", "", "Give a file like G_1000.pth.")
# Top-level parts of a voice of so-vits-svc 4.0 and 4.1.
_VOICE_PARTS = frozenset("emb_g emb_vol pre enc_p dec enc_q flow f0_decoder emb_uv".split())
# Width and depth of published encoders -> name in the catalogue.
_WHISPERS = {384: "tiny", 512: "base", 768: "small", 1024: "medium", 1280: "large-v2"}
_HUBERTS = {(768, 12): "contentvec", (1024, 24): "cnhubert"}


@dataclass(frozen=True)
class ModelFile:
    """What a file turned out to be.

    Args:
        family: kind and maker.
        weights: name -> tensor, without a leading `module.`.
        details: more that the file says of itself, in words ("v2", "40k").
        package: its name in the catalogue, for a pretrained model that is in it.
    """

    family: Family
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    details: tuple[str, ...] = ()
    package: str | None = None

    @property
    def title(self) -> str:
        """In words, with its article: "an RVC voice (v2, 40k)"."""
        family = self.family
        if family is UNKNOWN:
            return "a file of an unknown kind"
        if self.package and self.package != family.name:
            name = f"{self.package} {family.kind}"
        else:
            name = f"{family.name} {family.kind}"
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
    for family in _FAMILIES:
        if re.search(f"^(?:{family.has})", names, re.MULTILINE):
            return ModelFile(family, weights, _details(content, family), _package_of(family.name, weights))
    for entry, family in _BY_ENTRY.items():
        if entry in content or any(isinstance(value, dict) and entry in value for value in content.values()):
            return ModelFile(family, weights)
    if isinstance(content.get("weight"), dict) and {"sr", "version"} <= content.keys():
        return ModelFile(_FAMILIES[0], weights, _details(content, _FAMILIES[0]))
    return ModelFile(UNKNOWN, weights)


def voice_weights(content: Mapping[Any, Any], path: Path | str) -> dict[str, torch.Tensor]:
    """The tensors of a voice of so-vits-svc 4.0 or 4.1, from `{"model": tensors}` or, in .safetensors, bare.

    Parts that no such voice has are named in the log; they are not used.

    Raises:
        CheckpointError: it is something else; the text says what, and what to do.
    """
    found = recognise(content)
    family = found.family
    if family is UNKNOWN:
        raise CheckpointError(f"{path}: not a voice model: it holds no emb_g.weight. {family.remedy}")
    if family.kind != VOICE or not family.is_ours:
        another = "" if family.is_ours else ", another kind of network"
        raise CheckpointError(
            f"{path}: not a voice model of so-vits-svc 4: it is {found.title}{another}. {found.remedy}"
        )
    foreign = sorted({name.split(".")[0] for name in found.weights} - _VOICE_PARTS)
    if foreign:
        logger.warning("%s: has parts that so-vits-svc 4.1 has not, not used: %s", path, ", ".join(foreign[:8]))
    return dict(found.weights)


def encoder_depth(weights: Mapping[str, torch.Tensor]) -> int:
    """Number of transformer layers in a speech encoder."""
    layers = [re.match(r"(?:encoder\.)?(?:transformer\.)?(?:layers|blocks)\.(\d+)\.", name) for name in weights]
    return 1 + max((int(match[1]) for match in layers if match), default=-1)


def _details(content: Mapping[Any, Any], family: Family) -> tuple[str, ...]:
    """What RVC writes beside its weights; others say no more in their files."""
    if family.name != "RVC":
        return ()
    return tuple(content[key] for key in ("version", "sr") if isinstance(content.get(key), str))


def _package_of(name: str, weights: Mapping[str, torch.Tensor]) -> str | None:
    """Name in the catalogue of a pretrained model that it holds, told by its sizes."""
    if name == "NSF-HiFiGAN":
        return "nsf-hifigan"
    if name in ("rmvpe", "fcpe", "hubertsoft", "dphubert"):
        return name
    depth = encoder_depth(weights)
    if name == "whisper":
        width = next((len(value) for key, value in weights.items() if key.endswith("blocks.0.attn.out.bias")), 0)
        return f"whisper-{_WHISPERS[width]}" if width in _WHISPERS else None
    width = next((len(value) for key, value in weights.items() if key.endswith("self_attn.k_proj.bias")), 0)
    if name == "wavlm":
        return "wavlm" if (width, depth) == (768, 12) else None
    return _HUBERTS.get((width, depth)) if name == "hubert" else None
