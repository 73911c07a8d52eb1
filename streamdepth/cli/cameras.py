"""Named cameras of a YAML file: source, look, range and outputs of each; one session for all."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import SourceError, StreamDepthError, UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from streamdepth.config import RunConfig
    from streamdepth.config.settings import Settings
    from streamdepth.core.contracts import Sink, Source
    from streamdepth.core.host import ThreadPlan
    from streamdepth.depth.range import RangeSwitch
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.pipeline.arguments import SourceMaker
    from streamdepth.pipeline.camera import CameraOptions
    from streamdepth.pipeline.cameras import CameraGroup
    from streamdepth.pipeline.stabilization import StabilizeSwitch
    from streamdepth.serve.site import WebSite

_WAIT_SECONDS = 0.5
_LOOK = ("style", "alpha", "reverse", "view", "edges", "nearness", "contours", "bar")
_DEPTH = ("range", "policy", "model_every", "stabilize", "anchor", "intrinsics", "fov")
_OUTPUTS = ("output", "data", "data_size", "zone", "events", "events_rate", "overwrite", "serve", "max_clients")
_ENCODING = ("codec", "crf", "preset", "bitrate", "stream_rate", "gop")
_SOURCE = ("source", "camera_mode", "timeout", "retries", "transport", "tls_ca", "latency", "credentials", "hwaccel")
KEYS = (*_SOURCE, *_DEPTH, *_LOOK, *_OUTPUTS, *_ENCODING)
"""What a camera of the file can set; the same names as the options of ``streamdepth run``."""
_MODEL = ("model", "dtype", "revision", "size", "sense", "input_name", "output_name", "normalize", "provider", "exact")
_GROUP = (
    *_MODEL,
    "metres_per_unit",
    "threads",
    "batch",
    "sources",
    "cameras",
    "max_staleness",
    "stats",
    "quiet",
    "config",
)
"""Options of ``streamdepth run --cameras`` that apply to all cameras together."""
_REMOTE = frozenset({"source", "transport", "timeout", "range", "model_every", "stabilize", *_LOOK} - {"nearness"})
"""What a request can set: nothing that names a file."""


def check_options(config: RunConfig) -> None:
    """Raises ``UsageError``: an option of ``streamdepth run`` that has no effect on named cameras."""
    from streamdepth.config.settings import RUN

    for one in config.declared(RUN):
        if one.key not in (*KEYS, *_GROUP) and getattr(config, one.key) != one.field.default:
            raise UsageError(f"{one.flag}: has no effect with --cameras; omit it")


def read_cameras(path: Path, base: Settings | None = None) -> dict[str, RunConfig]:
    """The cameras of a file: ``defaults`` of all, and under ``cameras`` the source or a mapping of options of each.

    Args:
        base: options that were given on the command line; defaults and cameras take precedence.

    Raises:
        UsageError: an unreadable file, an unknown key (with the nearest name), a wrong value, or outputs that would
            overwrite each other.
    """
    from streamdepth.config.options import yaml_mapping
    from streamdepth.pipeline.camera import check_name
    from streamdepth.sinks.files import check_distinct
    from streamdepth.sinks.names import NAME

    content = yaml_mapping(path)
    for key in content:
        if key not in ("defaults", "cameras"):
            raise UsageError(f"{path}: unknown key {key}{nearest(str(key), ('defaults', 'cameras'))}")
    given = {} if base is None else {key: getattr(base, key) for key in base.model_fields_set if key in KEYS}
    given.pop("source", None)
    defaults = {**given, **_options(content.get("defaults") or {}, f"{path}: defaults")}
    cameras = content.get("cameras")
    if not isinstance(cameras, Mapping) or not cameras:
        raise UsageError(f"{path}: has no cameras; write e.g. cameras: {{door: rtsp://192.168.1.20/stream}}")
    configs = {}
    for name, own in cameras.items():
        where = f"{path}: {name}"
        check_name(str(name))
        own = {"source": own} if isinstance(own, str | int) else own
        configs[str(name)] = camera_config({**defaults, **_options(own, where)}, where)
    check_distinct(
        output.replace(NAME, name)
        for name, config in configs.items()
        for output in (*config.output, *config.data, *((config.events,) if config.events not in (None, "-") else ()))
        if output != "null:"
    )
    return configs


def camera_config(values: Mapping[str, Any], where: str) -> RunConfig:
    """The options of one camera.

    Raises:
        UsageError: no source, or a wrong value; the message begins with ``where``.
    """
    from streamdepth.config import RunConfig

    given = dict(values)
    source = given.pop("source", None)
    if not isinstance(source, str | int) or source == "":
        raise UsageError(f"{where}: has no source; write source: URL")
    text = str(source)
    if re.match(r"test:(?!.*\bframes=)", text, re.IGNORECASE):
        text += f"{'&' if '?' in text else '?'}frames=0"  # a camera does not end
    try:
        config = RunConfig.load({**given, "sources": (text,)}, None, command="run")
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    if config.range == "shot":
        raise UsageError(f"{where}: range shot needs two passes; use ema, frame or fixed:LO,HI")
    for url in config.serve:
        if not url.lower().startswith(("rtsp://", "rtsps://")):
            raise UsageError(f"{where}: serve takes rtsp:// addresses; the page is that of streamdepth serve")
    return config


def _options(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise UsageError(f"{where}: expected a source or 'name: value' lines, found a {type(values).__name__}")
    options = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in KEYS:
            raise UsageError(
                f"{where}: a camera has no option {key}{nearest(str(key), [one.replace('_', '-') for one in KEYS])}"
            )
        options[name] = value
    return options


class NamedCameras:
    """Cameras of a group by their options, and on the page if there is one. Thread-safe.

    Implements :class:`streamdepth.serve.cameras_api.Cameras`.
    """

    def __init__(
        self,
        group: CameraGroup,
        estimator: DepthEstimator,
        threads: ThreadPlan,
        *,
        site: WebSite | None = None,
        on_status: Any = None,
    ) -> None:
        from streamdepth.cli.jobs import Servers

        self._group = group
        self._estimator = estimator
        self._threads = threads
        self._site = site
        self._on_status = on_status or (lambda _: None)
        self._servers = Servers()
        self._lock = threading.Lock()
        self._configs: dict[str, RunConfig] = {}
        self._remote: set[str] = set()

    def add(self, name: str, config: RunConfig, *, remote: bool = False) -> None:
        """
        Args:
            remote: a request names the source.

        Raises:
            UsageError: the name is in use, or a wrong value.
            StreamDepthError: there is no such source.
        """
        from streamdepth.core.look import LookControl
        from streamdepth.depth.range import RangeSpec, RangeSwitch
        from streamdepth.pipeline.stabilization import StabilizeSwitch

        view = None
        stabilize: bool | StabilizeSwitch = config.stabilize == "on"
        switch = RangeSwitch(RangeSpec.parse(config.range or "ema"))
        if name in self._group.names:
            raise UsageError(f"{name}: a camera has this name; choose another, or change that camera")
        if self._site is not None:
            control, stabilize = LookControl(config.look), StabilizeSwitch(config.stabilize == "on")
            view = self._site.add_view(name, control=control, range_switch=switch, stabilize_switch=stabilize)
        try:
            sinks = partial(self._sinks, name, config)
            given = _given(config, self._threads, switch, stabilize)
            self._group.add(name, self._source_maker(config, remote=remote), sinks, **given)
        except BaseException:
            if view is not None and self._site is not None:
                self._site.remove_view(view)
            raise
        with self._lock:
            self._configs[name] = config
            if remote:
                self._remote.add(name)
        if view is not None:
            view.sampler.watch(self._group, name)

    def remove(self, name: str) -> None:
        """Raises ``UsageError``: there is no such camera."""
        try:
            self._group.remove(name)
        finally:
            if name not in self._group.names:
                with self._lock:
                    self._configs.pop(name, None)
                    self._remote.discard(name)
                view = self._view(name)
                if self._site is not None and view is not None:
                    self._site.remove_view(view)

    def set(self, name: str, content: Mapping[str, Any]) -> bool:
        """Add or change a camera as a request asks; True if it is new.

        Raises:
            UsageError: an option that requests cannot set, or a wrong value.
        """
        from streamdepth.serve.api import look_changes

        for key in content:
            if key not in _REMOTE:
                raise UsageError(f"a request cannot set {key}{nearest(key, _REMOTE)}")
        look_changes(dict(content))  # a style must not name a file
        with self._lock:
            known = self._configs.get(name)
        if known is None:
            if name in self._group.names:
                raise UsageError(f"{name}: is being changed; try again")
            self.add(name, camera_config(content, name), remote=True)
            return True
        self._change(name, known, content)
        return False

    def _change(self, name: str, known: RunConfig, content: Mapping[str, Any]) -> None:
        from streamdepth.depth.range import RangeSpec, RangeSwitch
        from streamdepth.serve.api import look_changes

        earlier = {key: getattr(known, key) for key in known.model_fields_set if key != "sources"}
        if "source" in content:
            earlier.pop("credentials", None)  # they are for the source of the file
            self._remote.add(name)
        config = camera_config({"source": known.sources[0], **earlier, **content}, name)
        look = look_changes(dict(content))
        restarts = [key for key in content if key not in (*_LOOK, "range", "stabilize")]
        view = self._view(name)
        if view is not None and look:
            view.control.update(**look)
        if restarts:
            if config.output or config.data:
                raise UsageError(f"{name}: writes files, which a restart would replace; remove it and add it again")
            switch = RangeSwitch(RangeSpec.parse(config.range or "ema")) if view is None else view.range_switch
            switch.set(RangeSpec.parse(config.range or "ema"))
            stabilize: bool | StabilizeSwitch = config.stabilize == "on"
            if view is not None:
                view.stabilize_switch.set(stabilize)
                stabilize = view.stabilize_switch
            self._group.update(
                name,
                source=self._source_maker(config, remote=name in self._remote),
                sinks=partial(self._sinks, name, config),
                **_given(config, self._threads, switch, stabilize),
            )
            if view is not None:
                view.sampler.watch(self._group, name)
        else:
            changed: CameraOptions = {}
            if "range" in content:
                changed["range"] = config.range
            if "stabilize" in content:
                changed["stabilize"] = config.stabilize == "on"
            self._group.update(name, look=look, **changed)
        with self._lock:
            self._configs[name] = config

    def states(self) -> list[dict[str, Any]]:
        """The state of every camera, for JSON."""
        from dataclasses import asdict

        from streamdepth.serve.api import look_state

        rows = []
        for name, stats in self._group.stats().items():
            view, row = self._view(name), asdict(stats)
            row["fps"] = None if view is None or not view.sampler.history else view.sampler.history[-1]["fps"]
            row["look"] = None if view is None else look_state(view.control.look)
            row["range"] = None if view is None else str(view.range_switch)
            row["stabilize"] = None if view is None else view.stabilize_switch.on
            row["paused"] = view is not None and view.feed.paused
            row["shown"] = view is not None and view.feed.latest is not None
            rows.append(row)
        return rows

    def _view(self, name: str) -> Any:
        views = () if self._site is None else self._site.views
        return next((view for view in views if view.name == name), None)

    def _source_maker(self, config: RunConfig, *, remote: bool) -> SourceMaker:
        from streamdepth.sources.select import source_for

        options = config.source_options(self._threads.decoder, self._on_status)
        options["retry_start"] = options["assume_live"] = True
        if remote:
            options["environ"] = {}  # credentials of the environment are for the cameras of the file
        return lambda: source_for(config.sources[0], **options)

    def _sinks(self, name: str, config: RunConfig, source: Source) -> Sequence[Sink]:
        from streamdepth.cli.jobs import make_sinks
        from streamdepth.serve.site import WebSink

        view = self._view(name)
        sinks = make_sinks(config, source, self._estimator, None, servers=self._servers, names={source.id: name})
        if self._site is not None and view is not None:
            view.attach(source)
            sinks.append(WebSink(source=source, site=self._site, view=view))
        return sinks


def _given(
    config: RunConfig, threads: ThreadPlan, switch: RangeSwitch, stabilize: bool | StabilizeSwitch
) -> CameraOptions:
    return {
        "policy": config.policy,
        "range": switch,
        "model_every": config.model_every,
        "stabilize": stabilize,
        "anchors": config.anchor,
        "color_threads": threads.kernels,
    }


def start(cameras: NamedCameras, configs: Mapping[str, RunConfig]) -> None:
    """Start the cameras of a file; one that cannot be used is reported, and the others start."""
    from streamdepth.cli.process import say

    failed = 0
    for name, config in configs.items():
        try:
            cameras.add(name, config)
        except StreamDepthError as error:
            failed += 1
            say(f"{name}: {error}; the other cameras start")
    if failed == len(configs):
        raise SourceError(f"none of the {failed} cameras can be used")


def wait_while(group: CameraGroup, goes_on: Callable[[], bool]) -> None:
    """Block while ``goes_on``.

    Raises:
        StreamDepthError: the model has failed.
    """
    waiting = threading.Event()
    while goes_on() and not waiting.wait(_WAIT_SECONDS):
        group.check()
    group.check()
