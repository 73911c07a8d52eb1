"""A website for depth: live page, image API, video jobs, health and metrics; and the sink that shows a run there."""

from __future__ import annotations

import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from streamdepth.core.clock import Clock, SystemClock
from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import MissingDependencyError, SinkError, install_command
from streamdepth.core.host import lower_priority
from streamdepth.serve.options import WebSettings, check_url, find_token, new_token, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp import web

    from streamdepth.core.contracts import Source
    from streamdepth.core.frame import ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl
    from streamdepth.depth.range import RangeSwitch
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.pipeline.stabilization import StabilizeSwitch
    from streamdepth.serve.cameras_api import Cameras
    from streamdepth.serve.jobs import JobRunner
    from streamdepth.serve.live_api import LiveApi
    from streamdepth.serve.options import Listen
    from streamdepth.serve.server import WebServer
    from streamdepth.serve.view import LiveView, Run


class WebSite:
    """Shows live views to browsers, and estimates depth of images and videos for other programs.

    Args:
        url: ``http://host:port``; port 0 selects a free one (see :attr:`port`).
        control: the look of the first live view, which the page changes; None = side by side.
        range_switch: the range mode, which the page changes; None = it cannot change.
        stabilize_switch: turns stabilization on and off, which the page does; None = it cannot.
        estimator: model for images and videos; None = neither is accepted.
        token, token_file: what clients must present; see :func:`~streamdepth.serve.options.find_token`. Beyond loopback
            a token is generated if none is given (see :attr:`entry_url`).
        settings: limits.
        environ: environment variables for the token; None = those of the process.
        add_cameras: hosts of cameras that requests may add, see :class:`~streamdepth.serve.cameras_api.CameraAccess`.
    Raises:
        UsageError: an invalid argument.

    Thread-safe.

    Attributes:
        cameras: what ``/v1/cameras`` controls; set it before the start. The page is then a grid of cameras.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        control: LookControl | None = None,
        range_switch: RangeSwitch | None = None,
        stabilize_switch: StabilizeSwitch | None = None,
        estimator: DepthEstimator | None = None,
        token: str | None = None,
        token_file: str | Path | None = None,
        settings: WebSettings | None = None,
        environ: Mapping[str, str] | None = None,
        add_cameras: Sequence[str] = (),
        clock: Clock | None = None,
    ) -> None:
        from streamdepth.serve.cameras_api import CameraAccess

        self._camera_access = CameraAccess(add_cameras)
        self._live: LiveApi | None = None
        self.cameras: Cameras | None = None
        self.label = check_url(url)
        self.settings = settings or WebSettings()
        self._clock: Clock = clock or SystemClock()
        self._url = url
        self._token = find_token(token, token_file, environ)
        self._views: list[LiveView] = []
        self._first = (control, range_switch, stabilize_switch)
        self._estimator = estimator
        self._token_generated = False
        self._lock = threading.Lock()
        self._holders = 0
        self._listen: Listen | None = None
        self._server: WebServer | None = None
        self._jobs: JobRunner | None = None
        self._image_worker: ThreadPoolExecutor | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def view(self) -> LiveView:
        """The first live view."""
        if not self._views:
            control, range_switch, stabilize_switch = self._first
            self.add_view(control=control, range_switch=range_switch, stabilize_switch=stabilize_switch)
        return self._views[0]

    @property
    def views(self) -> tuple[LiveView, ...]:
        """All live views, at least one."""
        return (self.view, *self._views[1:])

    def add_view(
        self,
        name: str = "",
        *,
        control: LookControl | None = None,
        range_switch: RangeSwitch | None = None,
        stabilize_switch: StabilizeSwitch | None = None,
    ) -> LiveView:
        """Add the live view of one source, also while the site runs.

        Args:
            name: how clients select the view.
        """
        from streamdepth.serve.view import LiveView

        view = LiveView(
            self._clock, name=name, control=control, range_switch=range_switch, stabilize_switch=stabilize_switch
        )
        self._views = [*self._views, view]
        self._show_views()
        return view

    def remove_view(self, view: LiveView) -> None:
        """Take a view off the page. Idempotent."""
        self._views = [one for one in self._views if one is not view]
        self._show_views()

    def _show_views(self) -> None:
        if self._live is not None:
            self._live.show_soon(self.views)

    @property
    def port(self) -> int:
        """The bound port; 0 before the start."""
        return self._server.port if self._server is not None else 0

    @property
    def address(self) -> str:
        """The page's address for display, e.g. ``http://127.0.0.1:8080``."""
        if self._listen is None or self._server is None:
            return self.label
        host = socket.gethostname() if self._listen.everywhere else self._listen.name
        return f"http://{host}:{self.port}"

    @property
    def entry_url(self) -> str:
        """The page's address with the token after ``#``, which browsers do not send. Secret if there is a token."""
        return f"{self.address}/#token={self._token}" if self._token is not None else f"{self.address}/"

    @property
    def token_generated(self) -> bool:
        """True if the token was generated here, so that the user has to be shown :attr:`entry_url`."""
        return self._token_generated

    def hold(self) -> None:
        """Start the site for one of its users, if it does not run yet.

        Raises:
            MissingDependencyError: the extra ``web`` is not installed.
            SinkError: the address cannot be used.
        """
        with self._lock:
            if not self._holders:
                self._start()
            self._holders += 1

    def release(self) -> None:
        """End one user's :meth:`hold`; the last one stops the site."""
        with self._lock:
            self._holders = max(self._holders - 1, 0)
            if self._holders:
                return
        self._stop()

    def start(self) -> None:
        """Listen and serve until :meth:`stop`.

        Raises:
            SinkError: the address cannot be used, or the site runs already.
        """
        if self._server is not None:
            raise SinkError(f"{self.label}: runs already; stop it first")
        self.hold()

    def stop(self) -> None:
        """End the server and its jobs, and delete its files. Idempotent."""
        with self._lock:
            self._holders = 0
        self._stop()

    def _start(self) -> None:
        _check_libraries()
        from streamdepth.serve.server import WebServer

        self._listen = listen = resolve(self._url)
        if self._token is None and not listen.loopback:
            self._token, self._token_generated = new_token(), True
        if self._estimator is not None:
            from streamdepth.serve.jobs import JobRunner

            self._folder = tempfile.TemporaryDirectory(prefix="streamdepth-web-", ignore_cleanup_errors=True)
            self._image_worker = ThreadPoolExecutor(1, "web-images", lower_priority)
            self._jobs = JobRunner(self._estimator, Path(self._folder.name), self.settings, self._clock)
            self._jobs.start()
        server = WebServer(listen, self._make_app, max_connections=self.settings.max_connections)
        self._server = server
        try:
            server.start()
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        server, self._server = self._server, None
        self._live = None
        try:
            if server is not None:
                server.stop()
        finally:
            if self._jobs is not None:
                self._jobs.close()
            if self._image_worker is not None:
                self._image_worker.shutdown(wait=False, cancel_futures=True)
            if self._folder is not None:
                self._folder.cleanup()
            self._jobs = self._image_worker = self._folder = None

    def _make_app(self) -> web.Application:
        """On the server's thread, inside its loop."""
        from aiohttp import web

        from streamdepth.serve.api import errors_as_json, harden_prepared
        from streamdepth.serve.bodies import BodyReader, sends_in_time
        from streamdepth.serve.cameras_api import CamerasApi
        from streamdepth.serve.images_api import ImagesApi
        from streamdepth.serve.jobs import JobsApi
        from streamdepth.serve.live_api import LiveApi
        from streamdepth.serve.server import OPEN_PATHS, AuthMiddleware, Page

        assert self._listen is not None and self._server is not None  # noqa: PT018, S101 - set in _start()
        bodies, page = BodyReader(self.settings), Page(grid=self.cameras is not None)
        auth = AuthMiddleware(self._token, OPEN_PATHS, port=self._server.port, bodies=bodies, login_page=page.login)
        app = web.Application(middlewares=[sends_in_time(self.settings), errors_as_json, auth.guard])
        app.on_response_prepare.append(harden_prepared)
        page.add_to(app)
        images = None
        if self._estimator is not None and self._image_worker is not None and self._jobs is not None:
            images = ImagesApi(self._estimator, self.settings, bodies, self._image_worker)
            images.add_to(app)
            JobsApi(self._jobs, self.settings, bodies, self.view.control).add_to(app)
        live = LiveApi(
            self.views,
            self.settings,
            self._clock,
            bodies,
            images=images,
            jobs=self._jobs,
            model=None if self._estimator is None else self._estimator.spec.name,
            rtc_address=None if self._listen.everywhere else self._listen.address,
        )
        live.add_to(app)
        self._live = live
        if self.cameras is not None:
            CamerasApi(self.cameras, self._camera_access, bodies).add_to(app)
        app.router.add_post("/login", auth.login)
        return app


def _check_libraries() -> None:
    try:
        import aiohttp  # noqa: F401 - whether it is installed
        import aiortc  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError as exc:
        raise MissingDependencyError(f"the web page needs {exc.name}; {install_command('web')}") from None


class WebSink(BaseSink):
    """Shows a run on a page with controls, graphs and depth under the pointer.

    ``process`` never blocks: each viewer gets the newest frame when it can take one.

    Args:
        url: ``http://host:port``.
        control: the look, which the page changes.
        range_switch: the range mode, which the page changes; the same object as the pipeline's ``range``.
        stabilize_switch: turns stabilization on and off, which the page does; the same object as the pipeline's
            ``stabilize``.
        source: its connection state is shown.
        estimator: model for images and videos that are dropped on the page; None = neither is accepted.
        token, token_file, settings: see :class:`~streamdepth.serve.site.WebSite`.
        site: an existing site instead of a new one; the arguments above except ``source`` are then the site's.
        view: the view of ``site`` to show the run in; None = its first.
    Raises:
        UsageError: an invalid argument.

    Call :meth:`watch` with the pipeline for the page's graphs. ``process`` from one thread, the rest from any.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        control: LookControl | None = None,
        range_switch: RangeSwitch | None = None,
        stabilize_switch: StabilizeSwitch | None = None,
        source: Source | None = None,
        estimator: DepthEstimator | None = None,
        token: str | None = None,
        token_file: str | Path | None = None,
        settings: WebSettings | None = None,
        site: WebSite | None = None,
        view: LiveView | None = None,
    ) -> None:
        self.site = site or WebSite(
            url,
            control=control,
            range_switch=range_switch,
            stabilize_switch=stabilize_switch,
            estimator=estimator,
            token=token,
            token_file=token_file,
            settings=settings,
        )
        self.view = view or self.site.view
        super().__init__(self.site.label, self.view.control)
        self._source = source
        self._open = False

    @property
    def live(self) -> bool:
        return True

    @property
    def counts(self) -> Mapping[str, int]:
        return MappingProxyType(self.view.feed.dropped)

    def watch(self, run: Run) -> None:
        """Show the statistics of this run."""
        self.view.attach(self._source)
        several = len(self.site.views) > 1
        self.view.sampler.watch(run, self._source.id if several and self._source is not None else None)

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        if image is None:
            raise SinkError(f"{self.name}: shows images, but the run makes none; set its look (control)")
        self.view.begin(stream, self._source)
        self._open = True
        self.site.hold()

    def process(self, result: Result) -> None:
        if not self._open:
            raise SinkError(f"{self.name}: is not open; call open() first")
        if result.image is None:
            raise SinkError(f"{self.name}: shows images, but the result has none; set its look (control)")
        self.view.feed.put(result)

    def close(self) -> None:
        if self._open:
            self._open = False
            self.view.end()
            self.site.release()
