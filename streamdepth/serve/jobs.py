"""Uploaded videos, their conversion, and ``/v1/jobs``."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import secrets
import shutil
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from aiohttp import web

from streamdepth.core.errors import StageError, StreamDepthError
from streamdepth.core.host import lower_priority, remove
from streamdepth.core.look import LookControl, View
from streamdepth.serve.api import LOGGER, LOOK_KEYS, ApiError, Job, JobState, look_changes
from streamdepth.serve.bodies import check_container, codec_for_browsers
from streamdepth.sinks.files import partial_path

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from streamdepth.core.clock import Clock
    from streamdepth.core.look import Look
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.pipeline import Pipeline
    from streamdepth.serve.bodies import BodyReader
    from streamdepth.serve.options import WebSettings

_NOT_H264 = "written as VP9, because browsers play no H.264 of this size or pixel format; QuickTime plays no VP9"
_FULL = "the server's disk is full; try again later"
_DELETED = "the job was deleted during the upload"
_JOIN_SECONDS = 5.0
_CHECK_SECONDS = 0.25


class JobRunner:
    """Runs one job at a time on its own thread; keeps the newest results for a while. Thread-safe.

    Files are below ``folder``, which ``close`` deletes.

    Attributes:
        files: runs file operations one after another, so that a slow disk blocks nothing else.
    """

    def __init__(self, estimator: DepthEstimator, folder: Path, settings: WebSettings, clock: Clock) -> None:
        self._estimator = estimator
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._changed = threading.Condition()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._thread = threading.Thread(target=self._work, name="web-jobs", daemon=True)
        self._closing = threading.Event()
        self.files = ThreadPoolExecutor(1, "web-files", lower_priority)

    def start(self) -> None:
        self._thread.start()

    @property
    def jobs(self) -> list[Job]:
        """Oldest first, without those that are no longer kept."""
        self._expire()
        return self._all()

    def _all(self) -> list[Job]:
        with self._changed:
            return list(self._jobs.values())

    def find(self, number: str) -> Job | None:
        self._expire()
        with self._changed:
            return self._jobs.get(number)

    def admit(self, name: str, look: Look, size: int) -> Job:
        """Start an upload and reserve its disk space.

        Args:
            size: bytes of the upload; 0 if unknown.
        Raises:
            ApiError: too many uploads and jobs (503), or not enough disk space (507).
        """
        self._expire()
        with self._changed:
            pending = sum(not job.state.over for job in self._jobs.values())
            if pending > self._settings.jobs_waiting or self._closing.is_set():
                raise ApiError(503, "too many videos are waiting; try again later", retry_after_seconds=10)
            if max(size, 1) > self._room():
                raise ApiError(507, _FULL, retry_after_seconds=60)
            number = secrets.token_urlsafe(12)
            job = Job(number, name, self._folder / number, look, reserved_bytes=size)
            self._jobs[number] = job
            return job

    def open(self, job: Job) -> FileIO:
        """The file for an upload."""
        job.folder.mkdir()
        return job.upload.open("wb", buffering=0)

    def write(self, job: Job, file: FileIO, chunk: bytes) -> None:
        """Write a part of an upload.

        Raises:
            ApiError: the job was deleted (409), or not enough disk space (507).
        """
        with self._changed:
            if job.state.over:
                raise ApiError(409, _DELETED)
            job.reserved_bytes = max(job.reserved_bytes - len(chunk), 0)
            if len(chunk) > self._room():
                raise ApiError(507, _FULL, retry_after_seconds=60)
        rest = memoryview(chunk)
        while rest:
            rest = rest[file.write(rest) :]

    def submit(self, job: Job) -> None:
        """The upload is complete.

        Raises:
            ApiError: the job was deleted (409).
        """
        with self._changed:
            if job.state.over:
                raise ApiError(409, _DELETED)
            job.reserved_bytes = 0
            job.state = JobState.WAITING
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """End a job in any state and delete its files."""
        pipeline = job.pipeline
        self._end(job, JobState.CANCELLED)
        if pipeline is not None:
            pipeline.abort()  # the worker deletes the files
            return
        self._remove(job)

    def close(self) -> None:
        """End the worker and delete all files. Idempotent."""
        with self._changed:
            if self._closing.is_set():
                return
            self._closing.set()
            self._changed.notify()
        for job in self._all():
            self.cancel(job)
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)
        # Behind the deletions that still run: two at once disturb each other.
        last = self.files.submit(shutil.rmtree, self._folder, ignore_errors=True)
        self.files.shutdown(wait=False)
        wait([last], _JOIN_SECONDS)

    def _room(self) -> int:
        """Bytes that may still be written, without what running uploads have reserved."""
        reserved = sum(job.reserved_bytes for job in self._jobs.values())
        return shutil.disk_usage(self._folder).free - self._settings.free_disk_bytes - reserved

    def _work(self) -> None:
        lower_priority()
        while (job := self._next()) is not None:
            try:
                self._run(job)
            except Exception as error:  # must not end the worker
                self._fail(job, _explain(job, error))
            job.pipeline = None
            remove(job.upload)
            if job.state is JobState.CANCELLED:
                self._remove(job)

    def _next(self) -> Job | None:
        """Wait for a job and start the oldest one; None at the end."""
        with self._changed:
            while not self._closing.is_set():
                for job in self._jobs.values():
                    if job.state is JobState.WAITING:
                        job.state = JobState.RUNNING
                        return job
                self._changed.wait(_CHECK_SECONDS)
        return None

    def _fail(self, job: Job, message: str) -> None:
        for path in (job.result, partial_path(job.result)):
            remove(path)
        job.error = message
        self._end(job, JobState.FAILED)

    def _end(self, job: Job, state: JobState) -> None:
        """Set the final state; the first one is kept. The time is set before the state can be seen."""
        with self._changed:
            if not job.state.over:
                job.reserved_bytes = 0
                job.ended_ns = self._clock.monotonic_ns()
                job.state = state

    def _run(self, job: Job) -> None:
        from streamdepth.pipeline import Pipeline
        from streamdepth.sinks.select import sink_for
        from streamdepth.sources.file import FileSource

        most = self._settings.max_video_pixels
        codec = codec_for_browsers(check_container(job.upload, job.name, most))
        source = FileSource(job.upload, source_id=job.name, max_pixels=most)
        sink = sink_for(str(job.result), control=LookControl(job.look), overwrite=True, codec=codec)
        pipeline = Pipeline(
            [source],
            self._estimator,
            [sink],
            model_every=self._settings.model_every,
            stabilize=self._settings.stabilize,
        )
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(job, pipeline, ended), name="web-job-watch", daemon=True)
        with pipeline:
            job.pipeline = pipeline
            watcher.start()
            try:
                pipeline.run()
            finally:
                ended.set()
                watcher.join(_JOIN_SECONDS)
        if job.state is JobState.RUNNING:
            job.frames = pipeline.stats.written
            notes = [job.public(note) for note in pipeline.stats.notes]
            job.notes = (*notes, *([f"{job.result_name}: {_NOT_H264}"] if codec else []))
            if job.error or not job.result.exists():
                self._fail(job, job.error or f"{job.name}: no frame can be decoded; send another video")
            else:
                self._end(job, JobState.DONE)

    def _watch(self, job: Job, pipeline: Pipeline, ended: threading.Event) -> None:
        """Update the progress of a running job and enforce its limits."""
        written = partial_path(job.result)
        while not ended.wait(_CHECK_SECONDS):
            stats = pipeline.snapshot()
            job.frames, job.expected, job.seconds = stats.estimated, stats.expected, stats.seconds
            size = written.stat().st_size if written.exists() else 0
            if size > self._settings.max_result_bytes:
                job.error = f"{job.name}: its depth video exceeds {self._settings.max_result_bytes:,} bytes; send less"
            elif self._room() < 0:
                job.error = f"{job.name}: {_FULL}"
            if job.error or job.state is JobState.CANCELLED:
                pipeline.abort()
                return

    def _expire(self) -> None:
        """Delete finished jobs that are too old or too many."""
        now_ns = self._clock.monotonic_ns()
        over = [job for job in self._all() if job.state.over]
        late = [job for job in over if now_ns - job.ended_ns > self._settings.result_seconds * 1e9]
        for job in {*late, *over[: -self._settings.max_results]}:
            self._remove(job)

    def _remove(self, job: Job) -> None:
        with self._changed:
            self._jobs.pop(job.id, None)
        with contextlib.suppress(RuntimeError):  # close() has deleted everything
            self.files.submit(shutil.rmtree, job.folder, ignore_errors=True)


def _explain(job: Job, error: BaseException) -> str:
    """Why a job failed, without anything about the server."""
    if isinstance(error, StageError) and error.__cause__ is not None:
        error = error.__cause__  # what a library raised, whose text may hold paths
    if isinstance(error, MemoryError):
        return f"{job.name}: the server is out of memory; send a smaller video"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{job.name}: {_FULL}"
    if isinstance(error, StreamDepthError):
        return job.public(error.message)
    logging.getLogger(LOGGER).error("job %s: %s: %s", job.name, type(error).__name__, error)
    return f"{job.name}: internal error ({type(error).__name__}); see the server's log and report it"


class JobsApi:
    """Routes of the job runner. Belongs to one event loop.

    Args:
        control: the default look of results.
    """

    def __init__(self, runner: JobRunner, settings: WebSettings, bodies: BodyReader, control: LookControl) -> None:
        self._runner = runner
        self._settings = settings
        self._bodies = bodies
        self._control = control

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/jobs", self.create)
        app.router.add_get("/v1/jobs", self.index)
        app.router.add_get("/v1/jobs/{id}", self.state)
        app.router.add_get("/v1/jobs/{id}/result", self.result)
        app.router.add_delete("/v1/jobs/{id}", self.delete)

    async def create(self, request: web.Request) -> web.StreamResponse:
        """The body is the video; the query has ``name`` and the look, by default that of the live view."""
        name, look = self._options(request)
        length = request.content_length or 0
        if length > self._settings.max_upload_bytes:
            raise ApiError(413, f"{name} has {length:,} bytes; the limit is {self._settings.max_upload_bytes:,}")
        job = self._runner.admit(name, look, length)
        try:
            await self._receive(request, job)
            self._runner.submit(job)
        except BaseException:
            self._runner.cancel(job)
            raise
        return web.json_response(job.to_dict(), status=202, headers={"Location": f"/v1/jobs/{job.id}"})

    async def index(self, _: web.Request) -> web.StreamResponse:
        """All jobs, oldest first."""
        return web.json_response([job.to_dict() for job in self._runner.jobs])

    async def state(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._job(request).to_dict())

    async def result(self, request: web.Request) -> web.StreamResponse:
        """The finished video as a download; with ``?inline=1`` for playing."""
        job = self._job(request)
        if job.state is not JobState.DONE:
            raise ApiError(409, f"{job.name} is {job.state}; its result is available once it is done")
        disposition = "inline" if request.query.get("inline") == "1" else "attachment"
        headers = {
            "Content-Disposition": f"{disposition}; filename*=UTF-8''{quote(job.result_name, safe='')}",
            "Content-Type": "video/mp4",
        }
        return web.FileResponse(job.result, headers=headers)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Cancel a job, or delete its result."""
        self._runner.cancel(self._job(request))
        return web.Response(status=204)

    def _job(self, request: web.Request) -> Job:
        job = self._runner.find(request.match_info["id"])
        if job is None:
            raise ApiError(404, "there is no such job; finished jobs are kept for a limited time")
        return job

    def _options(self, request: web.Request) -> tuple[str, Look]:
        query = dict(request.query)
        name = " ".join(query.pop("name", "video").replace("\\", "/").rpartition("/")[2].split())[:200] or "video"
        base = self._control.look
        view = base.view if base.view is not View.STACK else View.SIDE
        changes = look_changes(query)
        unknown = set(query) - set(LOOK_KEYS)
        if unknown:
            names = ", ".join(("name", *LOOK_KEYS))
            raise ApiError(400, f"unknown option {', '.join(sorted(unknown))[:200]}; there are {names}")
        return name, replace(base, **{"view": view, "transparent": False, **changes})

    async def _receive(self, request: web.Request, job: Job) -> None:
        work = partial(asyncio.get_running_loop().run_in_executor, self._runner.files)
        count, limit = 0, self._settings.max_upload_bytes
        rate = self._settings.least_bytes_per_second
        with await work(self._runner.open, job) as file:
            async for chunk in self._bodies.chunks(request.content.readany, least_bytes_per_second=rate):
                count += len(chunk)
                if count > limit:
                    raise ApiError(413, f"{job.name} has more than {limit:,} bytes")
                await work(self._runner.write, job, file, chunk)
        if not count:
            raise ApiError(400, "the body is empty; send a video file")
