"""Depth on a page for the browser."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError
from streamdepth.serve.site import WebSite

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from streamdepth.core.contracts import Source
    from streamdepth.core.frame import ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl
    from streamdepth.depth.range import RangeSwitch
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.serve.options import WebSettings
    from streamdepth.serve.stats import Watched


class WebSink(BaseSink):
    """Shows a run on a page with controls, graphs and a read-out; see :class:`~streamdepth.serve.site.WebSite`.

    Never blocks: each viewer gets the newest image when it can take one.

    Args:
        url: ``http://host:port``.
        control: the look, which the page changes.
        range_switch: the range mode, which the page changes; the same as the pipeline's ``range``.
        source: asked for the state of its connection.
        estimator: model for stills and files that are dropped on the page; None = neither.
        token, token_file: see :class:`~streamdepth.serve.site.WebSite`.
        site: a site of the caller's own, already started, instead of all others but ``source``; it outlives the sink.
    Raises:
        UsageError: an argument that cannot mean anything.

    Call :meth:`watch` with the pipeline for the page's graphs. ``process`` from one thread, the rest from any.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        control: LookControl | None = None,
        range_switch: RangeSwitch | None = None,
        source: Source | None = None,
        estimator: DepthEstimator | None = None,
        token: str | None = None,
        token_file: str | Path | None = None,
        settings: WebSettings | None = None,
        site: WebSite | None = None,
    ) -> None:
        self._owns_site = site is None
        self.site = site or WebSite(
            url,
            control=control,
            range_switch=range_switch,
            estimator=estimator,
            token=token,
            token_file=token_file,
            settings=settings,
        )
        super().__init__(self.site.label, self.site.control)
        self._source = source
        self._shows = False

    @property
    def live(self) -> bool:
        return True

    @property
    def counts(self) -> Mapping[str, int]:
        return MappingProxyType(self.site.feed.dropped)

    def watch(self, run: Watched) -> None:
        """Whose books the page shows."""
        self.site.board.watch(run)

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        if image is None:
            raise SinkError(f"{self.name}: shows images, and was given none to come; it needs a look")
        self.site.begin(stream, self._source)
        self._shows = True
        if self._owns_site:
            self.site.start()

    def process(self, result: Result) -> None:
        if not self._shows:
            raise SinkError(f"{self.name}: is not open")
        if result.image is None:
            raise SinkError(f"{self.name}: shows images, and was given a result without one; it needs a look")
        self.site.feed.put(result)

    def close(self) -> None:
        if self._shows:
            self._shows = False
            self.site.end()
        if self._owns_site:
            self.site.stop()
