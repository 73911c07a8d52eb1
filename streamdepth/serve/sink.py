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
    from streamdepth.pipeline.stabilization import StabilizeSwitch
    from streamdepth.serve.options import WebSettings
    from streamdepth.serve.view import LiveView, Run


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
            raise SinkError(f"{self.name}: shows images, but the run makes none; give it a look")
        self.view.begin(stream, self._source)
        self._open = True
        self.site.hold()

    def process(self, result: Result) -> None:
        if not self._open:
            raise SinkError(f"{self.name}: is not open; call open() first")
        if result.image is None:
            raise SinkError(f"{self.name}: shows images, but the result has none; give it a look")
        self.view.feed.put(result)

    def close(self) -> None:
        if self._open:
            self._open = False
            self.view.end()
            self.site.release()
