"""Video files that come in over HTTP and go back as depth videos."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import SourceError, StreamDepthError
from streamdepth.core.frame import ImageInfo
from streamdepth.core.look import Look, LookControl
from streamdepth.core.queues import Aborted, BoundedQueue, Ended

if TYPE_CHECKING:
    from streamdepth.core.clock import Clock
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.pipeline import Pipeline
    from streamdepth.serve.options import WebSettings

_DEMUXERS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "ogg", "asf", "gif", "ivf", "h264", "hevc"),
    *("mjpeg", "m4v", "nut", "mxf", "apng", "yuv4mpegpipe", "dv"),
)
"""Containers a stranger's file may be. Left out: playlists and scripts (hls, concat, dash), which name other files."""

_NOT_H264 = "written as VP9, because browsers play no H.264 of this size or pixel format; QuickTime plays no VP9"
_JOIN_SECONDS = 5.0
_CHECK_SECONDS = 0.25


class JobState(StrEnum):
    """Where a job is on its way, as the HTTP API says it."""

    UPLOADING = "uploading"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(eq=False)
class Job:
    """One file's way. Written to by the upload, then by the worker; read by anybody."""

    id: str
    name: str
    folder: Path
    look: Look
    state: JobState = JobState.UPLOADING
    error: str = ""
    notes: tuple[str, ...] = ()
    frames: int = 0
    expected: int | None = None
    seconds: float = 0.0
    ended_ns: int = 0
    pipeline: Pipeline | None = field(default=None, repr=False)

    @property
    def upload(self) -> Path:
        suffix = PurePosixPath(self.name).suffix.lower()
        return self.folder / f"input{suffix if suffix[1:].isalnum() and suffix.isascii() and len(suffix) < 8 else ''}"

    @property
    def result(self) -> Path:
        return self.folder / "depth.mp4"

    @property
    def result_name(self) -> str:
        """What to save the result as."""
        stem = "".join(c if c.isalnum() or c in "-_. " else "_" for c in PurePosixPath(self.name).stem)[:80].strip()
        return f"{stem or 'video'}-depth.mp4"

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        done = self.frames / self.expected if self.expected else None
        left = self.seconds * (1 / done - 1) if done and self.state is JobState.RUNNING else None
        return {
            "id": self.id,
            "name": self.name,
            "state": str(self.state),
            "error": self.error,
            "notes": list(self.notes),
            "frames": self.frames,
            "expected": self.expected,
            "progress": 1.0 if self.state is JobState.DONE else min(done, 1.0) if done is not None else None,
            "seconds": round(self.seconds, 2),
            "seconds_left": None if left is None else round(left, 1),
            "result": f"/v1/jobs/{self.id}/result" if self.state is JobState.DONE else None,
        }


class JobRunner:
    """One job at a time on a thread of its own, few waiting, results kept for a while. Thread-safe.

    Files live below ``folder``, which ``close`` empties.
    """

    def __init__(self, estimator: DepthEstimator, folder: Path, settings: WebSettings, clock: Clock) -> None:
        self._estimator = estimator
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: BoundedQueue[Job] = BoundedQueue(settings.jobs_waiting + 1)
        self._thread = threading.Thread(target=self._work, name="web-jobs", daemon=True)
        self._closing = threading.Event()

    def start(self) -> None:
        self._thread.start()

    @property
    def jobs(self) -> list[Job]:
        """Oldest first."""
        with self._lock:
            return list(self._jobs.values())

    def find(self, number: str) -> Job | None:
        self._expire()
        with self._lock:
            return self._jobs.get(number)

    def admit(self, name: str, look: Look) -> Job | None:
        """Make room for an upload; None where too many are on their way."""
        self._expire()
        with self._lock:
            pending = sum(not job.state.over for job in self._jobs.values())
            if pending > self._settings.jobs_waiting or self._closing.is_set():
                return None
            number = secrets.token_urlsafe(12)
            job = Job(number, name, self._folder / number, look)
            job.folder.mkdir()
            self._jobs[number] = job
            return job

    def room(self) -> int:
        """Bytes that may still be written."""
        return shutil.disk_usage(self._folder).free - self._settings.free_disk_bytes

    def submit(self, job: Job) -> None:
        """The upload is complete."""
        job.state = JobState.WAITING
        self._queue.put(job)

    def cancel(self, job: Job) -> None:
        """End it wherever it is and take its files away."""
        pipeline = job.pipeline
        self._end(job, JobState.CANCELLED)
        if pipeline is not None:
            pipeline.abort()  # the worker takes the files away
            return
        self._remove(job)

    def close(self) -> None:
        """End the worker and take all files away. Idempotent."""
        self._closing.set()
        self._queue.abort()
        for job in self.jobs:
            self.cancel(job)
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _work(self) -> None:
        while True:
            try:
                job = self._queue.get()
            except (Ended, Aborted):
                return
            if job is None or job.state is not JobState.WAITING:
                continue
            job.state = JobState.RUNNING
            try:
                self._run(job)
            except StreamDepthError as error:
                self._fail(job, error.message)
            except Exception as error:  # the next job must get its turn
                self._fail(job, f"internal error: {type(error).__name__}: {error}")
            job.pipeline = None
            job.upload.unlink(missing_ok=True)
            if job.state is JobState.CANCELLED:
                self._remove(job)

    def _fail(self, job: Job, message: str) -> None:
        job.result.unlink(missing_ok=True)
        job.error = message
        self._end(job, JobState.FAILED)

    def _end(self, job: Job, state: JobState) -> None:
        """The first end counts. Its time is set before anybody can see that it is over."""
        if not job.state.over:
            job.ended_ns = self._clock.monotonic_ns()
            job.state = state

    def _run(self, job: Job) -> None:
        from streamdepth.pipeline import Pipeline
        from streamdepth.sinks.select import sink_for
        from streamdepth.sources.file import FileSource

        codec = codec_for_browsers(check_container(job.upload, job.name))
        source = FileSource(job.upload, source_id=job.name)
        sink = sink_for(str(job.result), control=LookControl(job.look), overwrite=True, codec=codec)
        pipeline = Pipeline([source], self._estimator, [sink], model_every=self._settings.model_every)
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(job, pipeline, ended), name="web-job-watch", daemon=True)
        with pipeline:
            job.pipeline = pipeline
            watcher.start()
            try:
                pipeline.run()
            finally:
                ended.set()
                watcher.join()
        if job.state is JobState.RUNNING:
            job.frames = pipeline.stats.written
            notes = [note.replace(str(job.result), job.result_name) for note in pipeline.stats.notes]
            job.notes = (*notes, *([f"{job.result_name}: {_NOT_H264}"] if codec else []))
            if job.error or not job.result.exists():
                self._fail(job, job.error or f"{job.name}: holds no frame that can be decoded")
            else:
                self._end(job, JobState.DONE)

    def _watch(self, job: Job, pipeline: Pipeline, ended: threading.Event) -> None:
        """Progress and limits of a running job."""
        while not ended.wait(_CHECK_SECONDS):
            books = pipeline.snapshot()
            job.frames, job.expected, job.seconds = books.estimated, books.expected, books.seconds
            size = job.result.stat().st_size if job.result.exists() else 0
            if size > self._settings.max_result_bytes:
                job.error = f"{job.name}: its depth video exceeds {self._settings.max_result_bytes:,} bytes; send less"
            elif self.room() < 0:
                job.error = f"{job.name}: the server's disk is full; try again later"
            if job.error or job.state is JobState.CANCELLED:
                pipeline.abort()
                return

    def _expire(self) -> None:
        """Of what is over, the newest few stay, for a while."""
        now_ns = self._clock.monotonic_ns()
        over = [job for job in self.jobs if job.state.over]
        late = [job for job in over if now_ns - job.ended_ns > self._settings.kept_seconds * 1e9]
        for job in {*late, *over[: -self._settings.kept_results]}:
            self._remove(job)

    def _remove(self, job: Job) -> None:
        with self._lock:
            self._jobs.pop(job.id, None)
        shutil.rmtree(job.folder, ignore_errors=True)


def check_container(path: Path, name: str) -> ImageInfo | None:
    """Refuse what is no plain video file, above all playlists and scripts that would make FFmpeg open other things.

    Returns:
        Size and format of its images, None where only decoding will tell.

    Raises:
        SourceError: it is none.
    """
    import av

    try:
        # FFmpeg's own list is checked after probing and before anything is opened; files only, whatever it says.
        options = {"format_whitelist": ",".join(_DEMUXERS), "protocol_whitelist": "file"}
        with av.open(str(path), options=options) as container:
            if not container.streams.video:
                raise SourceError(f"{name}: holds no video; send MP4, MOV, MKV, WebM, AVI or MPEG-TS")
            video = container.streams.video[0]
            if not (video.width and video.height and video.pix_fmt):
                return None
            return ImageInfo(video.width, video.height, video.pix_fmt)
    except (av.FFmpegError, OSError) as exc:
        if isinstance(exc, SourceError):
            raise
        raise SourceError(f"{name}: not a video file; send MP4, MOV, MKV, WebM, AVI or MPEG-TS") from None


def codec_for_browsers(image: ImageInfo | None) -> str | None:
    """The encoder of a result that browsers play, None = the container's own, x264.

    Of H.264 they decode 4:2:0 of 8 bits only, which x264 leaves for odd sides, finer chroma and more bits; VP9 they
    decode in all of these.
    """
    from streamdepth.sinks.encoding import encoding_for

    if image is None or encoding_for(image, codec="libx264", transparent=False).pix_fmt == "yuv420p":
        return None
    return "libvpx-vp9"
