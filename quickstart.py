"""The whole job from one command: installs everything, trains a small voice and converts a song. Needs only Python.

    python quickstart.py          make .venv, install, then the five steps of the recipe on samples/
    python quickstart.py test     make .venv, install, then run the tests (further arguments go to pytest)

Reads samples/, requirements.txt and pretrain/whisper-ppg-base/. Writes .venv/ beside this file and, in a workspace
folder of its own, everything that the recipe writes; it ends by naming the converted song and a picture of it.
Run it again and it goes on where it stopped. Standard library only.

Example: python quickstart.py --workspace ~/voices/first --steps 600
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

CODE = Path(__file__).resolve().parent
VENV = CODE / ".venv"
SONG = "sing_vocadito_14.flac"
SPEAKER = "be_ksenya_f"
DEFAULT_STEPS = 700


class Stop(Exception):
    """Ends the run with one line; the text says what to do."""


def main(argv: list[str] | None = None) -> int:
    """Installs, then runs the recipe or the tests; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["test"]:
        return run_tests(arguments[1:])
    parser = argparse.ArgumentParser(
        prog=Path(__file__).name, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workspace",
        type=Path,
        default=CODE / "quickstart_workspace",
        help="folder for everything the recipe writes (default: quickstart_workspace beside this file)",
    )
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="training steps (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    started = time.monotonic()
    python = install("requirements.txt")
    installed = time.monotonic()
    result, picture = run_recipe(python, options.workspace.expanduser().resolve(), options.steps)
    print(f"\nInstallation {minutes(installed - started)}, recipe {minutes(time.monotonic() - installed)}.")
    print(f"Converted song: {result}\nPicture:        {picture}")
    return 0


def run_tests(arguments: list[str]) -> int:
    """Installs what the tests need and runs pytest with `arguments`; returns its exit code."""
    python = install("requirements-dev.txt")
    command = [str(python), "-m", "pytest", *arguments]
    say(["python", "-m", "pytest", *arguments])
    return subprocess.run(command, cwd=CODE).returncode


def install(requirements: str) -> Path:
    """Makes `.venv` where there is none, installs a requirements file once, and returns the environment's Python.

    Raises:
        Stop: the Python is too old or too new, has no venv module, or the installation failed.
    """
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        found = ".".join(map(str, sys.version_info[:3]))
        raise Stop(f"this is Python {found}; the packages need 3.10 to 3.13. Run this file with one of those.")
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not works(python):
        say(["python", "-m", "venv", ".venv"])
        if subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)]).returncode:
            raise Stop("could not make .venv. On Debian and Ubuntu: sudo apt install python3-venv, then try again.")
    stamp = VENV / f"installed-{fingerprint(requirements)}"
    if not stamp.exists():
        say([".venv/bin/python", "-m", "pip", "install", "-r", requirements])
        command = [
            str(python),
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--quiet",
            "--progress-bar",
            "off",
        ]
        if subprocess.run([*command, "-r", str(CODE / requirements)]).returncode:
            raise Stop("installation failed; the lines above say why. Mend that and run the same command again.")
        stamp.touch()
    return python


def works(python: Path) -> bool:
    """Whether that Python runs and has pip; an interrupted set-up does not."""
    if not python.is_file():
        return False
    return subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True).returncode == 0


def fingerprint(requirements: str) -> str:
    """Changes when the requirements change, those in files that they include too."""
    digest = hashlib.sha256()
    waiting = [requirements]
    while waiting:
        name = waiting.pop()
        text = (CODE / name).read_text("utf-8")
        digest.update(f"{name}\n{text}".encode())
        waiting += [line.split()[1] for line in text.splitlines() if line.startswith("-r ")]
    return digest.hexdigest()[:12]


def run_recipe(python: Path, workspace: Path, steps: int) -> tuple[Path, Path]:
    """Runs the five scripts as a user would; returns the converted song and its picture.

    Raises:
        Stop: a script ended with an error (its own line stands above).
    """
    fill_workspace(workspace)
    print(f"\n$ cd {workspace}")

    def run(script: str, *flags: str) -> None:
        run_script(python, workspace, script, *flags)

    run("resample.py")
    run("preprocess_flist_config.py", "--micro", "--vol_aug", "--speech_encoder", "whisper-ppg-base")
    run("preprocess_hubert_f0.py", "--f0_predictor", "fcpe")
    run("train.py", "-c", "configs/config.json", "-m", "44k", "--max_steps", str(steps))
    model = newest_model(workspace / "logs" / "44k").relative_to(workspace).as_posix()
    run("inference_main.py", "-m", model, "-c", "logs/44k/config.json", "-n", SONG, "-s", SPEAKER, "-f0p", "fcpe")
    result = Path("results") / f"{SONG}_0key_{SPEAKER}_sovits_fcpe.flac"
    picture = result.with_suffix(".png")
    run("compare.py", f"raw/{SONG}", result.as_posix(), "-o", picture.as_posix())
    return workspace / result, workspace / picture


def fill_workspace(workspace: Path) -> None:
    """Copies the sample voices and the song to where the recipe expects them; what is there already stays."""
    copies = [
        (path, workspace / "dataset_raw" / path.parent.name / path.name)
        for path in sorted((CODE / "samples" / "voices").glob("*/*.flac"))
    ]
    copies.append((CODE / "samples" / "songs" / SONG, workspace / "raw" / SONG))
    for source, target in copies:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(target.name + ".copying")
            shutil.copyfile(source, unfinished)
            unfinished.replace(target)


def run_script(python: Path, workspace: Path, script: str, *flags: str) -> None:
    """Prints a command as a user would type it in the workspace, and runs it there."""
    path = CODE / script
    shown = os.path.relpath(path, workspace) if CODE in workspace.parents else str(path)
    say(["python", shown, *flags])
    environment = {**os.environ, "PYTHONUTF8": "1"}
    code = subprocess.run([str(python), str(path), *flags], cwd=workspace, env=environment).returncode
    if code:
        raise Stop(
            f"{script} ended with code {code}; the line above says why. Mend that and run the same command again."
        )


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
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
