"""A real server of the page in a workspace of its own, and a real browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_QUIET = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


class Server:
    """`webUI.py` in a process of its own, which stands in `workspace`."""

    def __init__(self, workspace: Path, *flags: str, **environment: str) -> None:
        self.workspace = workspace
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, str(ROOT / "webUI.py"), "--port", str(port), *flags]
        log = (workspace / "server.log").open("ab")
        with log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self.process = subprocess.Popen(command, cwd=workspace, env={**os.environ, **environment}, **streams)
        deadline = time.monotonic() + 90
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/gradio_api/startup-events", timeout=30):
                return True
        except OSError as error:
            return getattr(error, "code", None) == 401  # asks for a password

    def log(self) -> str:
        return (self.workspace / "server.log").read_text("utf-8")

    def stop(self) -> int:
        """Ends it as Ctrl-C does; returns its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(120)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


@contextmanager
def serving(workspace: Path, *flags: str, **environment: str):
    """A server in `workspace`, ended at the end."""
    workspace.mkdir(parents=True, exist_ok=True)
    server = Server(workspace, *flags, **environment)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def start_server():
    """`serving`, for tests that start a server of their own."""
    return serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that the tests of a file share, in a workspace whose name has a space and an umlaut."""
    with serving(tmp_path_factory.mktemp("webui") / "mein Köln") as started:
        yield started


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium: apt-get install chromium")
        pytest.skip("needs chromium (apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET.split())
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Opens an address in a window and returns playwright's page; what it asks of other machines fails the test."""
    opened, strangers = [], []

    def open_at(url: str, size: dict[str, int] = WIDE, **context):
        page = browser.new_context(viewport=size, **context).new_page()
        page.on("request", lambda request: strangers.append(request.url) if not _is_here(request.url) else None)
        page.set_default_timeout(60_000)
        page.goto(url)
        page.get_by_role("tab", name="Convert").wait_for()
        opened.append(page)
        return page

    yield open_at
    for page in opened:
        page.context.close()
    assert not strangers


def _is_here(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))
