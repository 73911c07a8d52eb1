"""A web site for depth: live page, stills API, video jobs, health and metrics. The parts, put together."""

from __future__ import annotations

import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamdepth.core.clock import Clock, SystemClock
from streamdepth.core.errors import MissingDependencyError, SinkError, UsageError
from streamdepth.core.look import Look, LookControl, View
from streamdepth.serve.feed import LiveFeed
from streamdepth.serve.options import WebSettings, check_url, find_token, new_token, resolve
from streamdepth.serve.stats import Reporting, StatsSampler

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from streamdepth.colorize.colorizer import Colorizer
    from streamdepth.core.contracts import Source
    from streamdepth.core.frame import StreamInfo
    from streamdepth.depth.range import RangeSwitch
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.serve.jobs import JobRunner
    from streamdepth.serve.options import Listen
    from streamdepth.serve.server import WebServer


class WebSite:
    """Serves one live view at a time to many browsers, and depth of stills and files to programs.

    Args:
        url: ``http://host:port``; port 0 takes a free one (see :attr:`port`).
        control: the look of the live view, which the page changes; None makes one (side by side).
        range_switch: the range mode the page may change; None = the page only shows it.
        estimator: model for stills and video files; None = neither is served.
        token, token_file: what clients must show; see :func:`~streamdepth.serve.options.find_token`. Beyond loopback
            one is made where none is given (see :attr:`entry_url`).
        settings: limits.
        environ: where the token is looked for; None = the process's.
    Raises:
        UsageError: an argument that cannot mean anything.

    ``start`` and ``stop`` on one thread; ``begin``, ``end`` and the feed from any.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        control: LookControl | None = None,
        range_switch: RangeSwitch | None = None,
        estimator: DepthEstimator | None = None,
        token: str | None = None,
        token_file: str | Path | None = None,
        settings: WebSettings | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.label = check_url(url)
        self.settings = settings or WebSettings()
        self.clock: Clock = clock or SystemClock()
        self.control = control or LookControl(Look(view=View.SIDE))
        self.range_switch = range_switch
        self.feed = LiveFeed(self.clock)
        self.board = StatsSampler(self.feed, self.clock)
        self.estimator = estimator
        self._url = url
        self._token = find_token(token, token_file, environ)
        self._token_is_ours = False
        self._lock = threading.Lock()
        self._stream: StreamInfo | None = None
        self._source: Source | None = None
        self._painting = threading.Lock()
        self._colorizer: Colorizer | None = None
        self._listen: Listen | None = None
        self._server: WebServer | None = None
        self._jobs: JobRunner | None = None
        self._stills: ThreadPoolExecutor | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def port(self) -> int:
        """The bound port; 0 before ``start``."""
        return self._server.port if self._server is not None else 0

    @property
    def address(self) -> str:
        """Where the page is, e.g. ``http://127.0.0.1:8080``; for people and logs."""
        if self._listen is None or self._server is None:
            return self.label
        host = socket.gethostname() if self._listen.everywhere else self._listen.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def entry_url(self) -> str:
        """The address with the token behind ``#``, where browsers keep it to themselves. Secret where there is one."""
        return f"{self.address}/#token={self._token}" if self._token is not None else f"{self.address}/"

    @property
    def token_is_ours(self) -> bool:
        """True where the token was made here, so that its owner must be told."""
        return self._token_is_ours

    @property
    def stream(self) -> StreamInfo | None:
        """What is shown live; None while nothing is."""
        return self._stream

    @property
    def source_status(self) -> Mapping[str, str | int]:
        """State and counters of the live source, where it reports any."""
        source = self._source
        return source.status if isinstance(source, Reporting) else {}

    def begin(self, stream: StreamInfo, source: Source | None = None) -> None:
        """A run starts to feed the page.

        Raises:
            SinkError: another one does already.
        """
        with self._lock:
            if self._stream is not None:
                raise SinkError(f"{self.label}: shows {self._stream.source_id} already; give each source its own port")
            self._stream, self._source = stream, source
        with self._painting:
            from streamdepth.colorize.colorizer import Colorizer

            self._colorizer = Colorizer(stream)

    def end(self) -> None:
        """The run is over; its last image stays. Idempotent."""
        with self._lock:
            self._stream = self._source = None
        self.board.watch(None)

    def repaint(self) -> None:
        """Show the present look on an image that stands: paused, or the last of a run that is over."""
        shown = self.feed.latest
        if shown is None or not (self.feed.paused or self._stream is None):
            return
        fixed = self.range_switch.spec.fixed if self.range_switch is not None else None
        depth_range = fixed or shown.range
        with self._painting:
            if self._colorizer is None:
                return
            image = self._colorizer.render(shown.frame, shown.depth, depth_range, self.control.look)
        self.feed.repaint(shown, image, depth_range)

    def start(self) -> None:
        """Listen and serve.

        Raises:
            MissingDependencyError: the extra ``web`` is not installed.
            SinkError: the address cannot be used.
        """
        if self._server is not None:
            raise SinkError(f"{self.label}: is open already")
        _need_libraries()
        from streamdepth.serve.server import WebServer

        self._listen = listen = resolve(self._url)
        if self._token is None and not listen.loopback:
            self._token, self._token_is_ours = new_token(), True
        if self.estimator is not None:
            from streamdepth.serve.jobs import JobRunner

            self._folder = tempfile.TemporaryDirectory(prefix="streamdepth-web-")
            self._stills = ThreadPoolExecutor(1, thread_name_prefix="web-stills")
            self._jobs = JobRunner(self.estimator, Path(self._folder.name), self.settings, self.clock)
            self._jobs.start()
        server = WebServer(listen, self._make_app, max_connections=self.settings.max_connections)
        self._server = server
        try:
            server.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server, its jobs and its files. Idempotent."""
        server, self._server = self._server, None
        try:
            if server is not None:
                server.stop()
        finally:
            if self._jobs is not None:
                self._jobs.close()
            if self._stills is not None:
                self._stills.shutdown(wait=False, cancel_futures=True)
            if self._folder is not None:
                self._folder.cleanup()
            self._jobs = self._stills = self._folder = None

    def _make_app(self) -> web.Application:
        """On the server's thread, inside its loop."""
        from aiohttp import web

        from streamdepth.serve.api import errors_as_json
        from streamdepth.serve.auth import AuthMiddleware, harden
        from streamdepth.serve.images_api import ImagesApi
        from streamdepth.serve.jobs_api import JobsApi
        from streamdepth.serve.live_api import LiveApi
        from streamdepth.serve.page import OPEN_PATHS, Page

        assert self._listen is not None  # noqa: S101 - set in start()
        gate = AuthMiddleware(self._token, OPEN_PATHS | {"/healthz", "/login"})
        app = web.Application(middlewares=[errors_as_json, gate.guard], client_max_size=1 << 16)
        app.on_response_prepare.append(harden)
        page = Page()
        gate.login_page(page.login)
        page.add_to(app)
        stills = jobs = None
        if self.estimator is not None and self._stills is not None and self._jobs is not None:
            stills = ImagesApi(self.estimator, self.settings, self._stills)
            app.router.add_post("/v1/depth", stills.depth)
            jobs = JobsApi(self._jobs, self.settings, self.control)
            jobs.add_to(app)
        rtc_address = None if self._listen.everywhere else self._listen.address
        live = LiveApi(self, stills, self._jobs, rtc_address=rtc_address)
        live.add_to(app)
        app.router.add_post("/login", gate.login)
        return app


def _need_libraries() -> None:
    try:
        import aiohttp  # noqa: F401 - seen to be there
        import aiortc  # noqa: F401
    except ImportError as exc:
        raise MissingDependencyError(
            f"the web page needs {exc.name}; install it with: pip install 'streamdepth[web]'"
        ) from None


def changed_range(site: WebSite, text: Any) -> None:
    """Set the range mode a client asks for.

    Raises:
        UsageError: no such mode, ``shot``, or this run's range cannot change.
    """
    from streamdepth.depth.range import RangeSpec

    if site.range_switch is None:
        raise UsageError("the range of this run was chosen when it began and cannot change")
    if not isinstance(text, str):
        raise UsageError(f"range is ema, frame or fixed:LO,HI, not {text!r}")
    site.range_switch.set(RangeSpec.parse(text))
