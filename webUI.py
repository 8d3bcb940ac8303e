"""A web page over the scripts: convert songs, train voices, and the tools for models, in a browser on this machine.

Reads and writes the workspace, which is the folder that you stand in, as the scripts do: logs/, trained/NAME/ (voices
of others), raw/, dataset_raw/, results/. What it keeps of its own is in .webui/.
Listens on this machine alone, and nothing leaves it. With --listen others in your network can use it, with the name and
password of --auth. Needs: pip install -r requirements-webui.txt

Example: python webUI.py
Example: python webUI.py --listen --auth singer:PASSWORD
"""

import argparse
import importlib
import importlib.util
import os

from modules.cli import configure_logging, make_parser, run
from modules.errors import UsageError
from modules.webui import server

SCRIPTS = {
    "inference_main.py": "inference_main",
    "cover.py": "cover",
    "doctor.py": "doctor",
    "resample.py": "resample",
    "preprocess_flist_config.py": "preprocess_flist_config",
    "preprocess_hubert_f0.py": "preprocess_hubert_f0",
    "train.py": "train",
    "train_index.py": "train_index",
    "cluster/train_cluster.py": "cluster.train_cluster",
    "train_diff.py": "train_diff",
    "mix_models.py": "mix_models",
    "compress_model.py": "compress_model",
    "inspect_model.py": "inspect_model",
    "compare.py": "compare",
    "evaluate.py": "evaluate",
    "grid.py": "grid",
}
PASSWORD_VARIABLE = "WEBUI_AUTH"


def main(argv: list[str] | None = None) -> int:
    """Shows the page until Ctrl-C; returns the exit code."""
    arguments = make_arguments().parse_args(argv)
    login = parse_login(arguments.auth or os.environ.get(PASSWORD_VARIABLE))
    if arguments.listen not in server.LOCAL_HOSTS and login is None:
        text = f"--listen {arguments.listen} lets others in your network in: give --auth USER:PASSWORD as well"
        raise UsageError(f"{text}, or set {PASSWORD_VARIABLE}")
    if not 1 <= arguments.port <= 65535:
        raise UsageError(f"--port {arguments.port}: expected 1 to 65535")
    if arguments.max_upload < 1:
        raise UsageError(f"--max_upload {arguments.max_upload}: expected 1 or more MB")
    if importlib.util.find_spec("gradio") is None:
        raise UsageError("the page needs gradio. Install it with: pip install -r requirements-webui.txt")
    configure_logging()
    server.forbid_network(arguments.listen)
    with server.own_workspace(arguments.listen, arguments.port):
        from modules.webui.page import build_page

        page = build_page({script: importlib.import_module(name).make_arguments() for script, name in SCRIPTS.items()})
        server.serve(page, arguments.listen, arguments.port, login, arguments.max_upload, arguments.root_path)
    return 0


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help shows them."""
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    here = "127.0.0.1"
    listen = "address to listen on; without one: on all, for others in your network, which needs --auth"
    add("--listen", nargs="?", const="0.0.0.0", default=here, metavar="ADDRESS", help=listen)
    add("--port", type=int, default=7860, help="port to listen on")
    secret = f"ask for this name and password (or set {PASSWORD_VARIABLE}, which no list of processes shows)"
    add("--auth", metavar="USER:PASSWORD", help=secret)
    add("--max_upload", type=int, default=500, metavar="MB", help="largest file that the page takes")
    proxy = "path under which a proxy shows the page, such as /proxy/7860"
    add("--root_path", metavar="PATH", help=proxy)
    return parser


def parse_login(text: str | None) -> tuple[str, str] | None:
    """Name and password of USER:PASSWORD."""
    if not text:
        return None
    user, _, password = text.partition(":")
    if not user or len(password) < 8:
        raise UsageError("--auth: expected USER:PASSWORD, with a password of 8 letters or more")
    return user, password


if __name__ == "__main__":
    run(main)
