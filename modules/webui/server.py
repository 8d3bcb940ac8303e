"""The server of the web page: where it listens, who may speak to it, and that nothing leaves the machine."""

import contextlib
import errno
import functools
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.files import lock_folder, make_folder
from modules.listening import LOCAL_HOSTS, bind, is_of_another_site
from modules.webui import jobs
from modules.webui.jobs import PRIVATE
from modules.webui.workspace import UPLOADS

if TYPE_CHECKING:
    import gradio

logger = logging.getLogger(__name__)

WAITING = 20  # requests of one kind that may wait; more are refused
_STOP_SECONDS = 300  # what jobs have to save when the server is told to end
DAY = 86400  # seconds
# Gradio serves what is in UPLOADS, each file under the hash of its content: uploads, and copies of what the page has
# shown. Nothing else can be fetched by its path. It copies there any file of the workspace, or of the system's folder
# for temporary files, that a handler of ours returns; so handlers return what `workspace.inside` let through, and
# these it never copies:
_BLOCKED = (jobs.JOBS, PRIVATE / ".lock", Path(".git"))

# The browser loads and sends nothing but from and to this server. Gradio's pages have scripts and styles in them.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; frame-src 'self' blob: data:; frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
)
_HEADERS = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


def forbid_network(host: str) -> None:
    """Lets this process talk to this machine alone, and tells gradio, before it is imported, to send no statistics and
    to keep uploads in the workspace."""
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_SHARE", "GRADIO_MCP_SERVER"):
        os.environ[name] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"  # gradio asks its own page whether it is there
    os.environ["GRADIO_TEMP_DIR"] = str(UPLOADS.resolve())
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(UPLOADS.resolve() / "examples")  # anybody may read it
    sys.addaudithook(functools.partial(_refuse_strangers, host))


def _refuse_strangers(own: str, event: str, arguments: tuple[Any, ...]) -> None:
    """Python's own look at whatever connects: gradio fetches the address that a request names in place of a file."""
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else ""  # else a socket of this machine, with a path
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0] or ""
    else:
        return
    host = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if host not in ("", "0.0.0.0", "::", own, *LOCAL_HOSTS) and not host.startswith("127."):
        raise PermissionError(errno.EACCES, "the web page talks to no other machine", host)


@contextlib.contextmanager
def own_workspace(host: str, port: int) -> Iterator[None]:
    """Keeps a second server out of this workspace; refuses a port that is taken."""
    make_folder(PRIVATE)
    bind(host, port).close()
    with lock_folder(PRIVATE):
        yield


def serve(
    page: "gradio.Blocks",
    host: str,
    port: int,
    login: tuple[str, str] | None,
    max_upload_mb: int,
    root_path: str | None = None,
) -> None:
    """Shows the page until Ctrl-C; then running jobs are stopped, which saves."""
    shutil.rmtree(UPLOADS, ignore_errors=True)
    page.queue(max_size=WAITING, default_concurrency_limit=8, api_open=False)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            auth=login,
            share=False,
            quiet=True,
            max_file_size=f"{max_upload_mb}mb",
            blocked_paths=[str(Path(place).resolve()) for place in _BLOCKED],
            run_history=False,
            enable_monitoring=False,
            app_kwargs={"middleware": _middleware(host), "openapi_url": None},
            prevent_thread_lock=True,
            root_path=root_path,
            ssr_mode=False,
            footer_links=[],
            **look(),
        )
        logger.info("open http://%s:%d in a browser; Ctrl-C ends it", "127.0.0.1" if host == "0.0.0.0" else host, port)
        while True:
            time.sleep(1)
    finally:
        page.close(verbose=False)
        stop_jobs()


def look() -> dict[str, Any]:
    """Theme and style: the system's own fonts, since others would be loaded from elsewhere."""
    import gradio

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return {"theme": gradio.themes.Default(**fonts), "css": (Path(__file__).parent / "page.css").read_text("utf-8")}


def stop_jobs() -> None:
    """Stops what runs, and waits until it is saved."""
    found = jobs.all_running()
    for job in found:
        logger.info("stopping the job %s, which saves", job.name)
        job.stop()
    for job in found:
        if not job.wait(_STOP_SECONDS):
            logger.warning(
                "the job %s has not ended after %d s and goes on; see %s", job.name, _STOP_SECONDS, job.folder
            )


def _middleware(host: str) -> list[Any]:
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    found = [Middleware(_Guard)]
    if host in LOCAL_HOSTS:  # else another page could speak to this one by a name that leads here
        found.append(Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL_HOSTS, "[::1]"]))
    return found


class _Guard:
    """Refuses what pages of other sites send, and adds the policy to every answer."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        async def send_with_policy(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), text.encode()) for name, text in _HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        headers = {name.decode("latin-1"): text.decode("latin-1") for name, text in scope.get("headers", ())}
        # Gradio's own check (strict_cors) only keeps such a page from reading the answer.
        is_foreign = scope["type"] == "http" and is_of_another_site(scope["method"], headers)
        app = PlainTextResponse("This came from a page of another site.", 403) if is_foreign else self._app
        await app(scope, receive, send_with_policy)
