"""The server from its start to its end: a socket, a folder for its files, an orderly stop."""

import asyncio
import logging
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from modules.inference.loaded_voice import LoadedVoice
from modules.server.app import build_app
from modules.server.jobs import STOPPING, Job, JobQueue
from modules.server.limits import Limits
from modules.server.metrics import Metrics
from modules.server.refusals import Refusal
from modules.server.service import Service

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 200  # at once; more are answered 503
_DOWNLOAD_SECONDS = 10  # that a client has to read its result after the grace period
_CHUNK_SECONDS = 20.0  # that the networks have to end the chunk that they are at


def serve(voices: Mapping[str, LoadedVoice], listener: socket.socket, token: str | None, limits: Limits) -> None:
    """Answers requests on a bound socket until Ctrl-C or SIGTERM, which are raised again when all is put away."""
    with tempfile.TemporaryDirectory(prefix="voice_server_", ignore_cleanup_errors=True) as folder:
        server = Server(voices, Path(folder), token, limits)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else "127.0.0.1" if host == "0.0.0.0" else host
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        logger.info("open http://%s:%d for the routes and a form; Ctrl-C ends it", shown, port)
        try:
            server.run(sockets=[listener])
        finally:
            if not server.queue.close(_CHUNK_SECONDS):
                logger.warning("the song in work did not end within %.0f s and is given up", _CHUNK_SECONDS)


class Server(uvicorn.Server):
    """uvicorn, and the queue: told to stop, it takes no more songs, and the one in work has a grace period."""

    def __init__(self, voices: Mapping[str, LoadedVoice], folder: Path, token: str | None, limits: Limits) -> None:
        """`folder` is there and empty; all files of the server lie in it."""
        metrics = Metrics()
        self.queue, self._limits = JobQueue(folder, limits, metrics), limits
        config = uvicorn.Config(
            build_app(Service(voices, self.queue, limits, metrics), token),
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=int(limits.grace) + _DOWNLOAD_SECONDS,
        )
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the server in order."""
        running = self.queue.refuse()
        logger.info("stopping" if running is None else "stopping when the song in work is done")
        ending = asyncio.create_task(self._end(running))
        await super().shutdown(sockets)
        ending.cancel()

    async def _end(self, running: Job | None) -> None:
        if running is None:
            return
        done = asyncio.shield(asyncio.wrap_future(running.done))
        await asyncio.wait({asyncio.ensure_future(done)}, timeout=self._limits.grace)
        self.queue.cancel(running, Refusal(503, STOPPING, {"Retry-After": "60"}))
