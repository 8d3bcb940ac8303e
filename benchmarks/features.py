"""Speed and memory of every speech encoder and pitch predictor, and of the whole feature step.

For each encoder and predictor: real-time factor (seconds of work per second of audio) and peak memory of a process of
its own, one clip at a time with the network built for each clip, as so-vits-svc works, against one network and our
batches. Then preprocess_hubert_f0.py as a whole, in the same two ways. Where a file of weights is not here, random
weights of the published size take its place: the speed is the same.

Reads audio files or makes babble; writes only to a temporary folder.

Example: python benchmarks/features.py --seconds 60 --only vec768l12 fcpe
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from published import make_clips, peak_memory, random_hubert

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

ENCODERS = (
    "vec768l12 vec256l9 hubertsoft dphubert wavlmbase+ cnhubertlarge "
    "whisper-ppg-tiny whisper-ppg-base whisper-ppg-small whisper-ppg whisper-ppg-large"
).split()
PREDICTORS = "pm dio harvest swift fcpe fcpe.pt rmvpe crepe".split()
RATE = 44100


def main() -> int:
    """Prints a table; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0, help="audio for each measurement (default: %(default)s)")
    parser.add_argument("--only", nargs="*", help="names of encoders and predictors (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (default: %(default)s)")
    parser.add_argument("--no_whole", action="store_true", help="leave out the whole feature step")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one, arguments.seconds, arguments.device)))
        return 0
    names = arguments.only or [*ENCODERS, *PREDICTORS]
    if unknown := set(names) - {*ENCODERS, *PREDICTORS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Known: {', '.join([*ENCODERS, *PREDICTORS])}")
    print(f"{os.cpu_count()} cores, device {arguments.device}, {arguments.seconds:g} s of audio, clips of 3 to 8 s")
    print(f"{'':18} {'one at a time':>22}   {'ours':>22}   ratio")
    for name in names:
        rows = [in_own_process(name, way, arguments) for way in ("alone", "ours")]
        if None in rows:
            print(f"{name:18} not measured: {'the package is not installed' if name == 'swift' else 'see above'}")
            continue
        shown = [f"{row['factor']:8.4f} RTF {row['memory']:6.0f} MB" for row in rows]
        ratio = rows[0]["factor"] / rows[1]["factor"]
        print(
            f"{name:18} {shown[0]:>22}   {shown[1]:>22}   {ratio:5.2f}{'' if rows[1]['real'] else '  random weights'}"
        )
    if not arguments.no_whole:
        measure_whole(arguments.seconds)
    return 0


def in_own_process(name: str, way: str, arguments: argparse.Namespace) -> dict | None:
    """What `measure` gives, from a process of its own, so that the peak of memory is this one's."""
    command = [sys.executable, __file__, "--one", name, way, "--seconds", str(arguments.seconds)]
    done = subprocess.run([*command, "--device", arguments.device], capture_output=True, text=True)
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{name} failed", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(name: str, way: str, seconds: float, device: str) -> dict:
    """Real-time factor and peak memory in MB, beyond the memory before, of one name in one way."""
    import torch

    rate = 16000 if name in ENCODERS else RATE
    clips = make_clips(seconds, rate)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        build, is_real = (prepare_encoder if name in ENCODERS else prepare_predictor)(name, device)
        run = encode if name in ENCODERS else predict
        before = peak_memory()
        built = build()  # untimed: imports, and the first plans of the convolutions
        run(built, clips[:1])
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        started = time.perf_counter()
        if way == "alone":
            for clip in clips:
                run(build(), [clip])
        else:
            run(built, clips)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - started
        os.chdir("/")
    memory = peak_memory() - before
    if device.startswith("cuda"):
        memory = torch.cuda.max_memory_allocated() / 2**20
    return {"factor": elapsed / (sum(map(len, clips)) / rate), "memory": memory, "real": is_real}


def encode(encoder, clips: list) -> None:
    """Clips through an encoder as preprocessing sends them: batches on a GPU, one by one on a CPU."""
    if encoder.device.type == "cuda":
        encoder.encode_batch(sorted(clips, key=len))
    else:
        for clip in clips:
            encoder.encode(clip)


def predict(predictor, clips: list) -> None:
    """Clips through a predictor."""
    for clip in clips:
        predictor.predict(clip)


def prepare_encoder(name: str, device: str):
    """A function that builds the encoder, and whether its weights are real."""
    import torch

    from modules.encoders import hubert, whisper_ppg
    from modules.encoders.base import ENCODERS, build_encoder
    from modules.pretrained.find import find

    kind = ENCODERS.get(name)
    if any(find(weights.path) for weights in kind.weights):
        return lambda: build_encoder(name, device), True
    torch.manual_seed(0)
    if issubclass(kind, hubert.HubertEncoder):
        weights = random_hubert(name, kind.dim)
        hubert.require = lambda *_: Path("random.pt")
        kind._load = lambda self, path: load_random_hubert(self, weights, path)
    else:
        from modules.encoders._networks.whisper import WhisperEncoder

        layers = {384: 4, 512: 6, 768: 12, 1024: 24, 1280: 32}[kind.dim]
        state = WhisperEncoder(80, 1500, kind.dim, layers).state_dict()
        torch.save({"model_state_dict": {f"encoder.{key}": value for key, value in state.items()}}, "random.pt")
        whisper_ppg.require = lambda *_: Path("random.pt")
    return lambda: build_encoder(name, device), False


def load_random_hubert(encoder, weights: dict, path: Path):
    """In place of the encoder's own `_load`."""
    from modules.encoders._networks.hubert import HubertNetwork

    encoder.normed = False
    return HubertNetwork(weights, path)


def prepare_predictor(name: str, device: str):
    """A function that builds the predictor, and whether its weights are real."""
    import torch

    from modules.config.audio import AudioSpec
    from modules.f0.base import build_predictor
    from modules.pretrained.find import find

    audio = AudioSpec(RATE, 2048, 512, 2048, 80, 0.0, 22050.0)
    is_real = True
    Path("pretrain").mkdir()
    if name == "rmvpe" and not find("pretrain/rmvpe.pt"):
        from modules.f0._networks.rmvpe import Rmvpe

        torch.save({"model": Rmvpe().state_dict()}, "pretrain/rmvpe.pt")
        is_real = False
    if name == "fcpe.pt" and not find("pretrain/fcpe.pt"):
        from modules.f0._networks.pcmer import Pcmer

        mel = {"sampling_rate": 16000, "num_mels": 128, "n_fft": 1024, "win_size": 1024, "hop_size": 160}
        config = {"mel": {**mel, "fmin": 0, "fmax": 8000}, "model": {}}
        torch.save({"config": config, "model": Pcmer().state_dict()}, "pretrain/fcpe.pt")
        is_real = False
    return lambda: build_predictor(name.removesuffix(".pt"), audio, device=device), is_real


def measure_whole(seconds: float) -> None:
    """preprocess_hubert_f0.py with the embedded encoder and dio, in one process and in one for each core."""
    import soundfile

    with tempfile.TemporaryDirectory() as folder:
        speaker = Path(folder) / "dataset" / "44k" / "alto"
        speaker.mkdir(parents=True)
        for index, clip in enumerate(make_clips(seconds, RATE)):
            soundfile.write(speaker / f"{index}.wav", clip, RATE)
        encoder = ["--speech_encoder", "whisper-ppg-base"]
        script(folder, "preprocess_flist_config.py", *encoder)
        print(f"preprocess_hubert_f0.py, whisper-ppg-base and dio, {seconds:g} s of audio, start-up included:")
        for processes in dict.fromkeys((1, os.cpu_count() or 1)):
            for path in speaker.glob("*.*.*"):
                path.unlink()
            for path in speaker.glob("*.pt"):
                path.unlink()
            started = time.perf_counter()
            script(folder, "preprocess_hubert_f0.py", "--f0_predictor", "dio", "--num_processes", str(processes))
            elapsed = time.perf_counter() - started
            print(f"  --num_processes {processes}: {elapsed:6.1f} s, real-time factor {elapsed / seconds:.3f}")
        shutil.rmtree(speaker)


def script(folder: str, name: str, *flags: str) -> None:
    """Runs one of the toolkit's scripts in a workspace."""
    subprocess.run([sys.executable, str(ROOT / name), *flags], cwd=folder, check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
