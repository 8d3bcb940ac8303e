"""What benchmarks share: made songs, models of the published sizes with random weights, a watch on a conversion.

Speed and memory do not depend on what the weights are, only on their number.
"""

import sys
import threading
import time
from pathlib import Path

CLIP_SECONDS = (3.0, 5.5, 8.0, 4.2, 6.7)
SPEAKER = "voice"

# torchaudio's names -> fairseq's, in this order: the way back of `modules/encoders/_networks/hubert.py`.
_TO_FAIRSEQ = (
    ("encoder.feature_projection.layer_norm.", "layer_norm."),
    ("encoder.feature_projection.projection.", "post_extract_proj."),
    ("encoder.transformer.pos_conv_embed.conv.", "encoder.pos_conv.0."),
    ("encoder.transformer.", "encoder."),
    (".final_layer_norm.", ".FINAL."),
    (".feed_forward.intermediate_dense.", ".fc1."),
    (".feed_forward.output_dense.", ".fc2."),
    (".attention.", ".self_attn."),
)


def make_clips(seconds: float, rate: int) -> list:
    """Voiced babble: a gliding harmonic tone with pauses and some noise, in clips of the usual lengths."""
    import numpy as np

    random = np.random.default_rng(0)
    clips, total = [], 0.0
    while total < seconds:
        length = min(CLIP_SECONDS[len(clips) % len(CLIP_SECONDS)], seconds - total)
        times = np.arange(int(length * rate)) / rate
        phase = 2 * np.pi * np.cumsum(220 * 2 ** (0.5 * np.sin(2 * np.pi * 0.4 * times))) / rate
        tone = sum(np.sin(k * phase) / k for k in range(1, 9)) * (np.sin(2 * np.pi * 1.3 * times) > -0.7)
        clips.append((0.2 * tone + 0.005 * random.standard_normal(len(times))).astype(np.float32))
        total += max(length, 0.1)
    return clips


def write_song(path: Path, seconds: float, rate: int = 44100) -> None:
    """A wav of clips, `seconds` together, each followed by a second of silence at which a conversion cuts."""
    import numpy as np
    import soundfile

    pause = np.zeros(rate, np.float32)
    parts = [part for clip in make_clips(seconds, rate) for part in (clip, pause)]
    soundfile.write(path, np.concatenate(parts), rate)


def write_voice(folder: Path, size: str = "base", optimizer: bool = False) -> None:
    """`G_1.pth` and `config.json` of a vec768l12 voice, with AdamW's state in the file where `optimizer`."""
    import torch

    from models import build_synthesizer
    from modules.config.io import load_config, parse_config, save_config
    from modules.config.presets import preset_values

    values = {**preset_values(size, "vec768l12", 768), "spk": {SPEAKER: 0}}
    save_config(parse_config(values), folder / "config.json")
    torch.manual_seed(0)
    network = build_synthesizer(load_config(folder / "config.json"))
    content = {"model": network.state_dict(), "iteration": 1, "learning_rate": 1e-4}
    if optimizer:
        adam = torch.optim.AdamW(network.parameters())
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        adam.step()
        content["optimizer"] = adam.state_dict()
    torch.save(content, folder / "G_1.pth")


def write_contentvec(folder: Path) -> bool:
    """`pretrain/checkpoint_best_legacy_500.pt` as it is published, unless the true one is at hand; returns that."""
    import torch

    from modules.encoders._networks.hubert import rename
    from modules.pretrained.catalogue import weights_of
    from modules.pretrained.find import find

    path = weights_of("contentvec")[0].path
    if find(path):
        return True
    torch.manual_seed(0)
    ours = random_hubert("vec768l12", 768)
    theirs = {_fairseq_name(name): value.half() for name, value in ours.items()}
    assert rename(theirs, "fairseq").keys() == ours.keys()
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": theirs}, folder / path)
    return False


def _fairseq_name(name: str) -> str:
    if name.startswith("feature_extractor."):
        return name.replace(".conv.", ".0.").replace(".layer_norm.", ".2.")
    if ".layers." in name and ".final_layer_norm." not in name:
        name = name.replace(".layer_norm.", ".self_attn_layer_norm.")
    for old, new in _TO_FAIRSEQ:
        name = name.replace(old, new)
    return name.replace(".FINAL.", ".final_layer_norm.")


def write_index(folder: Path, n_frames: int = 30000) -> Path:
    """A feature index of ten minutes of random units for the voice of `write_voice`; returns its JSON."""
    import numpy as np

    from cluster.index_files import write_indexes
    from cluster.retrieval import train_index

    units = np.random.default_rng(0).standard_normal((n_frames, 768), np.float32)
    return write_indexes(folder, {SPEAKER: (0, train_index(units))}, "vec768l12", 768)


def random_hubert(name: str, dim: int) -> dict:
    """Random weights of the published size, by torchaudio's names. DPHuBERT is a quarter of HuBERT base."""
    import torch

    from modules.audio.torchaudio_compat import import_torchaudio

    models = import_torchaudio().models
    network = {"cnhubertlarge": models.hubert_large, "wavlmbase+": models.wavlm_base}.get(name, models.hubert_base)()
    state = network.state_dict()
    old = "encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original"
    for index, letter in enumerate("gv"):
        state[f"encoder.transformer.pos_conv_embed.conv.weight_{letter}"] = state.pop(f"{old}{index}")
    width = state["encoder.transformer.layer_norm.weight"].shape[0]
    if dim == 256:
        state |= {"final_proj.weight": torch.randn(256, width), "final_proj.bias": torch.zeros(256)}
    if name == "dphubert":
        for key in list(state):
            if "attention.out_proj.weight" in key:
                state[key] = state[key][:, :192].clone()
            elif any(f"attention.{part}_proj" in key for part in "qkv"):
                state[key] = state[key][:192].clone()
            elif "intermediate_dense" in key:
                state[key] = state[key][:768].clone()
            elif "output_dense.weight" in key:
                state[key] = state[key][:, :768].clone()
    return state


class Stages:
    """Seconds spent in each stage of a conversion from now on.

    A stage inside another one does not count for the outer one. What another thread does beside the networks is kept
    apart, so that the stages of this thread and `rest` are the whole time.

    Args:
        parts: of a converter; their methods are replaced.
        device: where they run; on a GPU a stage ends when its kernels have.
    """

    def __init__(self, parts, device) -> None:
        self.device = device
        self.spent: dict[str, float] = {}
        self.beside: dict[str, float] = {}
        self._main = threading.get_ident()
        self._inner = threading.local()
        voice, refiner = parts.synthesizer, parts.refiner
        found = [
            (parts.predictor, "predict", "pitch"),
            (parts.encoder, "encode", "encoder"),
            (parts.encoder, "encode_batch", "encoder"),
            (getattr(parts, "retriever", None), "blend", "retrieval"),
            (voice, "infer", "prior and flow"),
            (voice, "infer_batch", "prior and flow"),
            (voice and voice.network.dec, "in_windows", "waveform decoder"),
            (refiner, "mels", "diffusion"),
            (refiner and refiner.vocoder, "synthesize", "vocoder"),
        ]
        for owner, method, stage in found:
            if owner is not None:
                setattr(owner, method, self._watched(getattr(owner, method), stage))

    def clear(self) -> None:
        """Starts anew."""
        self.spent.clear()
        self.beside.clear()

    def shares(self, elapsed: float) -> str:
        """Each stage in per cent of `elapsed`, in words."""
        spent = {**self.spent, "rest": elapsed - sum(self.spent.values())}
        words = [f"{stage} {100 * seconds / elapsed:.0f} %" for stage, seconds in spent.items()]
        beside = [f"{stage} {100 * seconds / elapsed:.0f} % beside" for stage, seconds in self.beside.items()]
        return ", ".join([*words, *beside])

    def _watched(self, method, stage: str):
        def measured(*args, **kwargs):
            started, outer = time.perf_counter(), getattr(self._inner, "seconds", 0.0)
            self._inner.seconds = 0.0
            result = method(*args, **kwargs)
            if self.device.type == "cuda":
                import torch

                torch.cuda.synchronize(self.device)
            elapsed = time.perf_counter() - started
            book = self.spent if threading.get_ident() == self._main else self.beside
            book[stage] = book.get(stage, 0.0) + elapsed - self._inner.seconds
            self._inner.seconds = outer + elapsed
            return result

        return measured


def peak_memory() -> float:
    """Peak of this process's memory so far, in MB; 0 on Windows, which does not tell."""
    try:
        import resource
    except ImportError:
        return 0.0
    return megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def megabytes(maxrss: int) -> float:
    """A resource usage's ru_maxrss, which macOS gives in bytes and others in KB, in MB."""
    return maxrss / 2**20 if sys.platform == "darwin" else maxrss / 2**10
