"""The whole job from one command: installs everything, converts a song and trains a voice. Needs only Python.

    python quickstart.py             make .venv, install, convert a song with the voice that comes with this toolkit,
                                     then train a voice of one's own from it, on samples/, and convert the song again
    python quickstart.py --no_train  stop after the first song
    python quickstart.py webui       make .venv, install, then show the web page (further arguments go to webUI.py)
    python quickstart.py test        make .venv, install, then run the tests (further arguments go to pytest)
    python quickstart.py install     make .venv and install requirements.txt, or the file that is named after it

Where this Python is too old or too new, it goes on with another one that it finds (py, python3.14 to python3.10, uv).
Reads samples/, requirements.txt, pretrain/whisper-ppg-base/ and pretrain/base-small/. Writes .venv/ beside this file
and, in a workspace folder of its own, everything that the recipe writes; it names each song and a picture of it.
Run it again and it goes on where it stopped. Standard library only.

Example: python quickstart.py --workspace ~/voices/first --steps 2000
"""

from __future__ import annotations  # read by Pythons too old to run the rest, so that they can say so

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CODE = Path(__file__).resolve().parent
VENV = CODE / ".venv"
SONG = "sing_vocadito_14.flac"
BASE = CODE / "pretrain" / "base-small"
READY_SPEAKER, READY_KEY = "bg_krasimir_m", -12  # of the ready-made voice, an octave below the song
SPEAKER = "be_ksenya_f"  # of samples/
DEFAULT_STEPS = 300
INTERRUPTED = 130  # exit code of a script that Ctrl-C has stopped
PYTHONS = [(3, minor) for minor in (14, 13, 12, 11, 10)]  # for which all packages have wheels, newest first
HOW_TO_GET_PYTHON = """
  Windows  winget install Python.Python.3.13
  macOS    brew install python@3.13
  Linux    sudo apt install python3 python3-venv (Debian, Ubuntu) or sudo dnf install python3.13 (Fedora)
"""


class Stop(Exception):
    """Ends the run with one line; the text says what to do."""


def main(argv: list[str] | None = None) -> int:
    """Installs, then runs the recipe or the tests; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if sys.version_info[:2] not in PYTHONS:
        return run_with_another_python(arguments)
    if arguments[:1] == ["test"]:
        return run_tests(arguments[1:])
    if arguments[:1] == ["webui"]:
        return run_webui(arguments[1:])
    if arguments[:1] == ["install"]:
        print(f"Installed: {install(*(arguments[1:2] or ['requirements.txt']))}")
        return 0
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=Path(__file__).name, description=__doc__, formatter_class=raw)
    folder, text = "quickstart_workspace", "folder for everything the recipe writes (default: {} beside this file)"
    parser.add_argument("--workspace", type=Path, default=CODE / folder, help=text.format(folder))
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="training steps (default: %(default)s)")
    parser.add_argument("--no_train", action="store_true", help="convert with the ready-made voice, and stop")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    started = time.monotonic()
    python, workspace = install("requirements.txt"), options.workspace.expanduser().resolve()
    installed = time.monotonic()
    fill_workspace(workspace)
    print(f"\n$ cd {workspace}")
    made = convert(python, workspace, BASE / "G_0.pth", BASE / "config.json", READY_SPEAKER, READY_KEY)
    converted = time.monotonic()
    print(f"\nInstallation {minutes(installed - started)}, first song {minutes(converted - installed)}.\n{made}")
    if not options.no_train:
        made = train_and_convert(python, workspace, options.steps)
        took = minutes(time.monotonic() - converted)
        print(f"\nA voice of one's own, from recordings to song: {took}.\n{made}")
    return 0


def run_with_another_python(arguments: list[str]) -> int:
    """Runs this file with a Python that the packages have wheels for; returns its exit code."""
    this = ".".join(map(str, sys.version_info[:3]))
    for command in other_pythons():
        check = [*command, "-c", f"import sys, venv; sys.exit(sys.version_info[:2] not in {PYTHONS})"]
        try:
            usable = subprocess.run(check, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
        except OSError:
            continue
        if usable:
            text = f"This is Python {this}; going on with {' '.join(command)}, which the packages have wheels for."
            print(text, flush=True)
            return subprocess.run([*command, str(Path(__file__).resolve()), *arguments]).returncode
    what = f"this is Python {this}; the packages need 3.10 to 3.14, and none was found here"
    raise Stop(f"{what}. Install one, then run the same command again:{HOW_TO_GET_PYTHON.rstrip()}")


def other_pythons() -> list[list[str]]:
    """Commands that may start a usable Python, the best first; uv downloads one where it has none."""
    names = [f"{major}.{minor}" for major, minor in PYTHONS]
    launchers = [["py", f"-{name}"] for name in names if os.name == "nt"]
    on_path = [[f"python{name}"] for name in names]
    found = [command for command in launchers + on_path if shutil.which(command[0])]
    return found + ([["uv", "run", "--no-project", "--python", "3.13", "python"]] if shutil.which("uv") else [])


def run_tests(arguments: list[str]) -> int:
    """Installs what the tests need and runs pytest on all cores with `arguments`; returns its exit code."""
    python = install("requirements-dev.txt", "--no-compile")  # most of it is never imported
    workers = ["-n", str(min(os.cpu_count() or 1, 8)), "--dist", "worksteal"]  # neighbours share their fixtures
    command = ["-m", "pytest", *workers, *arguments]
    say(["python", *command])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the scripts that tests start would be compiled each time
    return subprocess.run([str(python), *command], cwd=CODE, env=environment).returncode


def run_webui(arguments: list[str]) -> int:
    """Installs what the web page needs and shows it, in the folder that one stands in; returns the exit code."""
    command = [str(install("requirements-webui.txt")), str(CODE / "webUI.py"), *arguments]
    say(["python", "webUI.py", *arguments])
    return run_saving(command)


def install(requirements: str, *options: str) -> Path:
    """Makes `.venv` where there is none, installs a requirements file once, and returns the environment's Python;
    `options` are pip's."""
    python = environment_python()
    if not works(python):
        make_environment()
    stamp = VENV / f"installed-{fingerprint(requirements)}"
    if not stamp.exists():
        say([".venv/bin/python", "-m", "pip", "install", "-r", requirements])
        quiet = ["--disable-pip-version-check", "--quiet", "--progress-bar", "off"]
        command = [str(python), "-m", "pip", "install", *quiet, *options, "-r", str(CODE / requirements)]
        if subprocess.run(command).returncode:
            raise Stop("installation failed; the lines above say why. Fix that and run the same command again.")
        stamp.touch()
    return python


def environment_python() -> Path:
    """The Python of `.venv`, made yet or not."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_environment() -> None:
    """Makes `.venv`; where Python came without the part that puts pip into it (Debian, Colab), with virtualenv."""
    say(["python", "-m", "venv", ".venv"])
    if subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)]).returncode == 0:
        return
    say(["python", "-m", "virtualenv", ".venv"])
    with tempfile.TemporaryDirectory() as folder:  # not into the Python that runs this, which may be the system's
        get = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, "virtualenv"]
        make = [sys.executable, "-m", "virtualenv", "--quiet", "--clear", str(VENV)]
        found = {**os.environ, "PYTHONPATH": folder}
        if subprocess.run(get).returncode or subprocess.run(make, env=found).returncode:
            raise Stop("could not make .venv. On Debian and Ubuntu: sudo apt install python3-venv, then try again.")


def works(python: Path) -> bool:
    """Whether that Python runs and has pip; an interrupted set-up does not."""
    check = [str(python), "-m", "pip", "--version"]
    return python.is_file() and subprocess.run(check, capture_output=True).returncode == 0


def fingerprint(requirements: str) -> str:
    """Changes when the requirements change, those in files that they include too."""
    digest, waiting = hashlib.sha256(), [requirements]
    while waiting:
        name = waiting.pop()
        text = (CODE / name).read_text("utf-8")
        digest.update(f"{name}\n{text}".encode())
        waiting += [line.split()[1] for line in text.splitlines() if line.startswith("-r ")]
    return digest.hexdigest()[:12]


def train_and_convert(python: Path, workspace: Path, steps: int) -> str:
    """Runs the scripts of the recipe as a user would; returns as `convert`."""
    settings = ["--small", "--vol_aug", "--speech_encoder", "whisper-ppg-base"]
    training = ["-c", "configs/config.json", "-m", "44k", "--base", shown(BASE, workspace), "--max_steps", str(steps)]
    run_script(python, workspace, "resample.py")
    run_script(python, workspace, "preprocess_flist_config.py", *settings)
    run_script(python, workspace, "preprocess_hubert_f0.py", "--f0_predictor", "fcpe")
    run_script(python, workspace, "train.py", *training)
    folder = workspace / "logs" / "44k"
    return convert(python, workspace, newest_model(folder), folder / "config.json", SPEAKER)


def convert(python: Path, workspace: Path, model: Path, config: Path, speaker: str, key: int = 0) -> str:
    """Converts the song and draws it beside its source; returns where both lie, in words."""
    flags = ["-m", shown(model, workspace), "-c", shown(config, workspace), "-n", SONG, "-s", speaker]
    flags += [*(["-t", str(key)] if key else []), "-f0p", "fcpe", "-lea", "0"]  # as loud as the song
    flags += ["-ns", "0.2", "--keep_consonants", "1", "--precision", "auto"]
    run_script(python, workspace, "inference_main.py", *flags)
    result = newest_result(workspace, f"{SONG}_{key}key_{speaker}_sovits_fcpe")
    picture = result.with_suffix(".png")
    run_script(python, workspace, "compare.py", f"raw/{SONG}", result.as_posix(), "-o", picture.as_posix())
    return f"Converted song: {workspace / result}\nPicture:        {workspace / picture}"


def shown(path: Path, workspace: Path) -> str:
    """A path as one would type it in the workspace: relative where it lies there, or where the workspace lies here."""
    near = workspace in path.parents or CODE in workspace.parents
    return Path(os.path.relpath(path, workspace)).as_posix() if near else path.as_posix()


def fill_workspace(workspace: Path) -> None:
    """Copies the sample voices and the song to where the recipe expects them; what is there already stays."""
    voices = CODE / "samples" / "voices"
    copies = {path: workspace / "dataset_raw" / path.relative_to(voices) for path in sorted(voices.glob("*/*.flac"))}
    copies[CODE / "samples" / "songs" / SONG] = workspace / "raw" / SONG
    for source, target in copies.items():
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(target.name + ".copying")
            shutil.copyfile(source, unfinished)
            unfinished.replace(target)


def run_script(python: Path, workspace: Path, script: str, *flags: str) -> None:
    """Prints a command as a user would type it in the workspace, and runs it there."""
    path = CODE / script
    say(["python", shown(path, workspace), *flags])
    code = run_saving([str(python), str(path), *flags], cwd=workspace, env={**os.environ, "PYTHONUTF8": "1"})
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        why = f"{script} ended with code {code}; the line above says why."
        raise Stop(f"{why} Fix that and run the same command again.")


def run_saving(command: list[str], **options) -> int:
    """Runs a command to its end, also after Ctrl-C, which reaches it too and lets it save; returns its exit code."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.run(command, **options).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def newest_result(workspace: Path, stem: str) -> Path:
    """The song that was just made, in the workspace: earlier ones, of other models, keep their names."""
    found = sorted((workspace / "results").glob(f"{stem}*.flac"), key=lambda path: path.stat().st_mtime)
    return (found[-1] if found else workspace / "results" / f"{stem}.flac").relative_to(workspace)


def newest_model(folder: Path) -> Path:
    """The generator with the highest step in its name."""
    models = [path for path in folder.glob("G_*.pth") if path.stem[2:].isdigit()]
    if not models:
        raise Stop(f"{folder} holds no trained model; run the same command again.")
    return max(models, key=lambda path: int(path.stem[2:]))


def say(command: list[str]) -> None:
    """Prints a command line with quotes where a shell needs them."""
    print("\n$ " + " ".join(f'"{word}"' if " " in word else word for word in command), flush=True)


def minutes(seconds: float) -> str:
    """Seconds as `4 min 05 s`."""
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Stop as stop:
        print(f"error: {stop}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
