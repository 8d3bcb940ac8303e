"""An HTTP service over trained voices: programs and pages send a song and get it back in another voice.

Reads the models and their configs, each once. Songs are sent by clients; nothing on this machine is read by its path.
Listens on this machine alone; with --host others can use it, which needs a token (--token, or SERVE_TOKEN).
Writes nothing that stays: songs and results lie in a temporary folder that is deleted at the end.
Routes, limits and examples: docs/server.md. Needs: pip install -r requirements-server.txt

Example: python serve.py -m logs/44k/G_8000.pth
Example: curl -F song=@song.wav -F speaker=alto http://127.0.0.1:8000/convert -o alto.flac
"""

import argparse
import importlib.util
import os
import re
from pathlib import Path

from modules.cli import configure_logging, make_parser, run
from modules.errors import UsageError
from modules.inference.arguments import conversion_arguments, predictor_name
from modules.inference.keyword_options import CONVERTED, CURVES, LOADED
from modules.inference.requests import Problems, check_device, read_models
from modules.listening import bind, is_local
from modules.pretrained.needs import require_parts
from modules.server.limits import Limits
from modules.weights.names import step_of

VOICE_FLAGS = tuple(name for name in (*LOADED, *CONVERTED) if name not in CURVES)  # those are of one song
TOKEN_VARIABLE = "SERVE_TOKEN"
SHORTEST_TOKEN = 16  # letters
PACKAGES = ("fastapi", "uvicorn", "python_multipart")


def main(argv: list[str] | None = None) -> int:
    """Answers requests until Ctrl-C; returns the exit code.

    Raises:
        UserError: a flag is wrong, a model cannot be loaded, or the port is taken.
    """
    args = make_arguments().parse_args(argv)
    token, limits, models = check(args)
    configure_logging()
    with bind(args.host, args.port) as listener:
        # What follows imports torch; help and what is wrong should not wait for that.
        from assemble import load_voice
        from modules.server.listen import serve

        options = {name: getattr(args, name) for name in VOICE_FLAGS if name != "config_path"}
        voices = {}
        for name, (model, config) in models.items():
            voices[name] = load_voice(model, config_path=config, **options)
        serve(voices, listener, token, limits)
    return 0


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help shows them."""
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument_group("Server").add_argument
    add(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; others than this machine need a token",
    )
    add("--port", type=int, default=8000, metavar="N", help="port to listen on")
    secret = (
        f"what clients must send as Authorization: Bearer TOKEN (or set {TOKEN_VARIABLE}, which no list of processes "
    )
    add("--token", metavar="TOKEN", help=secret + f"shows); {SHORTEST_TOKEN} letters or more")
    limits = {
        "max_mb": "largest song in MB",
        "max_seconds": "longest song in seconds",
        "queue": "songs that may wait beside the one in work; more are refused",
        "time_limit": "seconds that a conversion may take, looked at after each chunk; and the sending of a song",
        "keep_minutes": "minutes until the result of a job is deleted",
        "keep_mb": "MB of all these results together; the oldest go first",
        "grace": "seconds that the song in work has to end when the server is stopped",
    }
    for name, about in limits.items():
        default = getattr(Limits, name)
        add(f"--{name}", type=type(default), default=default, metavar="N", help=about)
    add_voice_flags(parser)
    return parser


def add_voice_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of inference_main.py that say what is loaded, and how it sings where a request says nothing else."""
    for group in conversion_arguments(__file__, "")._action_groups:
        wanted = [action for action in group._group_actions if action.dest in (*VOICE_FLAGS, "f0_mean_pooling")]
        target = parser.add_argument_group(group.title) if wanted else None
        if group.title == "Model":
            models = (
                "trained generators, or the .onnx made of them; each becomes a voice (default: the newest in logs/44k/)"
            )
            target.add_argument("-m", "--model_path", nargs="+", metavar="FILE", help=models)
        for action in wanted:
            if action.dest == "config_path":
                action.nargs, action.help = "+", "their configs, in the same order (default: config.json beside each)"
            target._add_action(action)


def check(args: argparse.Namespace) -> tuple[str | None, Limits, dict[str, tuple[str | None, str | None]]]:
    """The token, the limits, and the model and config of each voice; all that is wrong is said at once."""
    problems = Problems()
    token = args.token or os.environ.get(TOKEN_VARIABLE) or None
    problems.attempt(check_token, token, args.host)
    limits = problems.attempt(Limits, **{name: getattr(args, name) for name in Limits.__dataclass_fields__})
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        text = f"the server needs {', '.join(missing)}. Install it with: pip install -r requirements-server.txt"
        problems.add(UsageError(text))
    args.f0_predictor = predictor_name(args)
    problems.attempt(require_parts, predictor=args.f0_predictor)
    problems.attempt(check_device, args.device)
    models = problems.attempt(name_voices, args.model_path or [None], args.config_path) or {}
    for model, config in models.values():
        one = argparse.Namespace(**{**vars(args), "model_path": model, "config_path": config})
        _, found, _ = read_models(one, problems)
        if found is not None:
            problems.attempt(require_parts, found.model.speech_encoder)
    problems.raise_all()
    return token, limits, models


def check_token(token: str | None, host: str) -> None:
    """Refuses a short token, and none where others can reach the server."""
    if token is None and not is_local(host):
        text = f"--host {host} lets others in: give --token as well, or set {TOKEN_VARIABLE}. A good one: python -c "
        raise UsageError(text + '"import secrets; print(secrets.token_urlsafe())"')
    if token is not None and not re.fullmatch(rf"[!-~]{{{SHORTEST_TOKEN},}}", token):
        raise UsageError(f"--token: expected {SHORTEST_TOKEN} or more letters, digits and signs without spaces")


def name_voices(models: list[str | None], configs: list[str] | None) -> dict[str, tuple[str | None, str | None]]:
    """Id -> model and config. G_8000.pth goes by its folder, another file by its own name, namesakes by both."""
    if configs is not None and len(configs) != len(models):
        raise UsageError(f"-c names {len(configs)} configs for {len(models)} models; give one for each, or none")
    paths = [Path(model or "logs/44k/G_0.pth") for model in models]
    short = [path.resolve().parent.name if step_of(path) is not None else path.stem for path in paths]
    names = [
        name if short.count(name) == 1 else f"{path.resolve().parent.name}-{path.stem}"
        for name, path in zip(short, paths)
    ]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UsageError(f"-m: several models would be called {twice[0]}. Rename one, or leave it out.")
    return dict(zip(names, zip(models, configs or [None] * len(models))))


if __name__ == "__main__":
    run(main)
