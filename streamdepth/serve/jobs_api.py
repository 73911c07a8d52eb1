"""``/v1/jobs``: a video file in, its depth video out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from aiohttp import web

from streamdepth.core.look import View
from streamdepth.serve.api import ApiError, look_changes
from streamdepth.serve.jobs import JobState

if TYPE_CHECKING:
    from streamdepth.core.look import Look, LookControl
    from streamdepth.serve.jobs import Job, JobRunner
    from streamdepth.serve.options import WebSettings


class JobsApi:
    """Routes of the job runner. Belongs to one event loop."""

    def __init__(self, runner: JobRunner, settings: WebSettings, control: LookControl) -> None:
        self._runner = runner
        self._settings = settings
        self._control = control

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/jobs", self.create)
        app.router.add_get("/v1/jobs", self.index)
        app.router.add_get("/v1/jobs/{id}", self.state)
        app.router.add_get("/v1/jobs/{id}/result", self.result)
        app.router.add_delete("/v1/jobs/{id}", self.delete)

    async def create(self, request: web.Request) -> web.StreamResponse:
        """The body is the file; ``name`` and the look (of the live view by default) stand in the query."""
        name, look = self._asked(request)
        most = min(self._settings.max_upload_bytes, max(self._runner.room(), 0))
        length = request.content_length
        if length is not None and length > self._settings.max_upload_bytes:
            raise ApiError(413, f"{name} has {length:,} bytes, the limit is {self._settings.max_upload_bytes:,}")
        if (length or 1) > most:
            raise ApiError(503, "the server's disk is full; try again later", retry_after_seconds=60)
        job = self._runner.admit(name, look)
        if job is None:
            raise ApiError(503, "too many videos are waiting; try again later", retry_after_seconds=10)
        try:
            await self._receive(request, job, most)
        except BaseException:
            self._runner.cancel(job)
            raise
        self._runner.submit(job)
        return web.json_response(job.to_dict(), status=202, headers={"Location": f"/v1/jobs/{job.id}"})

    async def index(self, _: web.Request) -> web.StreamResponse:
        return web.json_response([job.to_dict() for job in self._runner.jobs])

    async def state(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._job(request).to_dict())

    async def result(self, request: web.Request) -> web.StreamResponse:
        """The finished video; ``?inline=1`` to play it."""
        job = self._job(request)
        if job.state is not JobState.DONE:
            raise ApiError(409, f"{job.name} is {job.state}; its result is there once it is done")
        place = "inline" if request.query.get("inline") == "1" else "attachment"
        headers = {
            "Content-Disposition": f"{place}; filename*=UTF-8''{quote(job.result_name, safe='')}",
            "Content-Type": "video/mp4",
        }
        return web.FileResponse(job.result, headers=headers)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Cancel it, or throw its result away."""
        self._runner.cancel(self._job(request))
        return web.Response(status=204)

    def _job(self, request: web.Request) -> Job:
        job = self._runner.find(request.match_info["id"])
        if job is None:
            raise ApiError(404, "there is no such job; finished ones are kept for a while only")
        return job

    def _asked(self, request: web.Request) -> tuple[str, Look]:
        query = dict(request.query)
        name = " ".join(query.pop("name", "video").replace("\\", "/").rpartition("/")[2].split())[:200] or "video"
        base = self._control.look
        view = base.view if base.view is not View.STACK else View.SIDE
        changes = look_changes(query)
        unknown = set(query) - {"style", "alpha", "reverse", "view", "contours", "bar", "edges"}
        if unknown:
            raise ApiError(400, f"unknown option {', '.join(sorted(unknown))}")
        return name, replace(base, **{"view": view, "transparent": False, **changes})

    async def _receive(self, request: web.Request, job: Job, most: int) -> None:
        loop = asyncio.get_running_loop()
        taken = 0
        with job.upload.open("wb") as file:
            while True:
                try:
                    async with asyncio.timeout(self._settings.stall_seconds):
                        chunk = await request.content.readany()
                except TimeoutError:
                    raise ApiError(408, f"nothing came for {self._settings.stall_seconds:g} s") from None
                if not chunk:
                    break
                taken += len(chunk)
                if taken > most:
                    raise ApiError(413, f"{job.name} has more than {most:,} bytes")
                await loop.run_in_executor(None, file.write, chunk)
        if not taken:
            raise ApiError(400, "the body is empty; send a video file")
