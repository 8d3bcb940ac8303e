"""Jobs: songs that wait for the one worker thread, which alone uses the networks, and results that are kept a while.

uploading -> waiting -> running -> done | failed | cancelled;  uploading -> refused
"""

import contextlib
import logging
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.files import discard
from modules.server.limits import MEGABYTE, Limits
from modules.server.metrics import Metrics
from modules.server.refusals import Refusal, refusal_of

logger = logging.getLogger(__name__)

MOST_KEPT = 500  # ended jobs, whatever their results weigh
STOPPING = "the server is being stopped; send it again later"


class Stopped(Exception):
    """Ends a conversion between two chunks."""


@dataclass(eq=False)
class Job:
    """A song on its way; what is said of it to clients is `about`."""

    folder: Path  # its own, for the song and the result
    kept: bool = True  # for GET /jobs; False: its one client is waiting for it
    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: str = "uploading"
    names: dict[str, str] = field(default_factory=dict)  # how places on the server are called to clients
    work: "Callable[[Job], None] | None" = None  # converts; sets `result` and `report`, calls `on_progress`
    result: Path | None = None
    title: str = ""  # file name of the result for clients
    report: dict[str, Any] = field(default_factory=dict)  # of the conversion, plain values
    seconds: tuple[float, float] = (0.0, 0.0)  # converted, and of the whole song; 0 until it is known
    error: Refusal | None = None
    started: float = 0.0  # on the queue's clock
    ended: float = 0.0
    readers: int = 0  # answers that are reading the result
    done: "Future[Job]" = field(default_factory=Future)  # has a result once the job has ended

    @property
    def about(self) -> dict[str, Any]:
        """Plain values for clients."""
        done, total = self.seconds
        found: dict[str, Any] = {"id": self.key, "state": self.state, "done_seconds": round(done, 3)}
        found |= {"seconds": round(total, 3), "progress": round(done / total, 4) if total else 0.0}
        if self.state == "done":
            found |= {"result": f"/jobs/{self.key}/result", "name": self.title, **self.report}
        if self.error is not None:
            found |= {"error": str(self.error), "status": self.error.status}
        return found


class JobQueue:
    """All jobs, and the thread that works on them one by one. Any thread may call it."""

    def __init__(
        self, folder: Path, limits: Limits, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`folder` is there; each job has a folder of its own in it."""
        self._folder, self._limits, self._metrics, self._clock = folder, limits, metrics, clock
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._refuses = self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="conversion", daemon=True)
        self._thread.start()

    def reserve(self) -> Job:
        """A place in the queue, before a song is read; a `Refusal` with 503 where there is none."""
        with self._changed:
            if self._refuses:
                raise Refusal(503, STOPPING, {"Retry-After": "60"})
            if self._n_queued() >= self._limits.queue + (self._running is None):
                text = f"{self._limits.queue} songs are waiting, which is the most; try again later"
                raise Refusal(503, text, {"Retry-After": "10"})
            job = Job(self._folder)
            job.folder = self._folder / job.key
            job.folder.mkdir()
            self._jobs[job.key] = job
            return job

    def submit(self, job: Job, work: Callable[[Job], None]) -> None:
        """Lets a reserved job wait for its turn."""
        with self._changed:
            if job.state != "uploading":
                raise job.error
            job.work, job.state = work, "waiting"
            self._waiting.append(job)
            self._changed.notify_all()

    def find(self, key: str) -> Job:
        """A job that is kept; a `Refusal` with 404 where there is none."""
        with self._changed:
            job = self._jobs.get(key)
        if job is None or not job.kept:
            raise Refusal(404, f"no such job, or it ended over {self._limits.keep_minutes:g} minutes ago")
        return job

    def cancel(self, job: Job, why: Refusal) -> None:
        """Ends a job, for its clients at once; one in work leaves the networks after the chunk that it is at."""
        with self._changed:
            was_waiting = job in self._waiting
            if was_waiting:
                self._waiting.remove(job)
            self._end(job, "refused" if job.state == "uploading" else "cancelled", why)
        if was_waiting:
            shutil.rmtree(job.folder, ignore_errors=True)

    def drop(self, job: Job) -> None:
        """Forgets a job, and deletes its files once nothing uses them."""
        self.cancel(job, Refusal(499, "the client went away"))
        with self._changed:
            self._jobs.pop(job.key, None)
            is_free = job is not self._running and not job.readers
        if is_free:
            shutil.rmtree(job.folder, ignore_errors=True)

    def hold(self, job: Job) -> Path:
        """The result of a job, which stays until `release`; a `Refusal` where there is none."""
        with self._changed:
            if job.error is not None:
                raise job.error
            if job.state != "done" or job.key not in self._jobs:
                raise Refusal(409, f"the job is {job.state}; its result comes when it is done")
            job.readers += 1
            return job.result

    def release(self, job: Job) -> None:
        """Ends a `hold`; a result that nobody else can ask for is deleted."""
        with self._changed:
            job.readers -= 1
            is_gone = job.key not in self._jobs or not job.kept
        if is_gone:
            self.drop(job)

    def sweep(self) -> None:
        """Deletes what ended too long ago, and the oldest of too many results."""
        with self._changed:
            ended = sorted(
                (job for job in self._jobs.values() if job.kept and job.done.done()), key=lambda job: job.ended
            )
            oldest = self._clock() - self._limits.keep_minutes * 60
            weight, dropped = sum(map(_weight, ended)), []
            for number, job in enumerate(ended):
                is_over = weight > self._limits.keep_mb * MEGABYTE or len(ended) - number > MOST_KEPT
                if job.ended < oldest or is_over:
                    dropped.append(job)
                    weight -= _weight(job)
        for job in dropped:
            self.drop(job)

    def gauges(self) -> dict[str, float]:
        """Numbers for the metrics."""
        with self._changed:
            ended = [job for job in self._jobs.values() if job.kept and job.done.done()]
            found = {"queue_length": self._n_queued(), "in_work": int(self._running is not None)}
            return {**found, "kept_jobs": len(ended), "kept_bytes": sum(map(_weight, ended))}

    def refuse(self) -> Job | None:
        """Takes no more jobs and ends those that wait; returns the one in work."""
        with self._changed:
            self._refuses = True
            left = [job for job in self._jobs.values() if job.state in ("uploading", "waiting")]
            running = self._running
        for job in left:
            self.cancel(job, Refusal(503, STOPPING, {"Retry-After": "60"}))
        return running

    def close(self, seconds: float) -> bool:
        """Ends all jobs and the thread, which has so many seconds to leave the chunk that it is at; whether it did."""
        running = self.refuse()
        if running is not None:
            self.cancel(running, Refusal(503, STOPPING, {"Retry-After": "60"}))
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def on_progress(self, job: Job, done: float, total: float) -> None:
        """Takes note of the seconds that are done; raises where the job is to end."""
        job.seconds = done, total
        if self._clock() - job.started > self._limits.time_limit:
            text = f"the conversion takes more than {self._limits.time_limit:g} s, which is the most; send less at once"
            with self._changed:
                self._end(job, "failed", Refusal(504, text))
        if job.done.done():
            raise Stopped

    def _n_queued(self) -> int:
        return sum(job.state in ("uploading", "waiting") for job in self._jobs.values())

    def _end(self, job: Job, state: str, error: Refusal | None = None) -> None:
        """Ends a job once; needs the lock."""
        if job.done.done():
            return
        job.state, job.error, job.ended = state, error, self._clock()
        self._metrics.add("conversions_total", result=state)
        job.done.set_result(job)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                job = self._running = self._waiting.popleft()
                job.state, job.started = "running", self._clock()
            try:
                job.work(job)
                error = None
            except Stopped:
                error = None  # why is known
            except BaseException as problem:  # the thread goes on whatever happens to one song
                error = refusal_of(problem, job.names)
            with self._changed:
                self._end(job, "done" if error is None else "failed", error)
                self._running = None
                is_of_use = job.state == "done" and job.key in self._jobs
            self._note(job)
            if not is_of_use:
                shutil.rmtree(job.folder, ignore_errors=True)
                continue
            with contextlib.suppress(FileNotFoundError):  # a client may have its result by now, and delete the folder
                for path in job.folder.glob("*"):
                    if path != job.result:  # the song
                        discard(path)

    def _note(self, job: Job) -> None:
        """Writes down how a job ended."""
        if job.state == "done":
            seconds, elapsed = job.report["seconds"], job.report["elapsed_seconds"]
            self._metrics.add("converted_seconds_total", seconds)
            self._metrics.add("computing_seconds_total", elapsed)
            logger.info("job %s: %.1f s converted in %.1f s", job.key, seconds, elapsed)
        else:
            logger.info("job %s: %s (%s)", job.key, job.state, job.error)


def _weight(job: Job) -> int:
    """Bytes of a job's result."""
    return int(job.report.get("bytes", 0)) if job.state == "done" else 0
