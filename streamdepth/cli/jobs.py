"""Plan of a run: which sources share a pipeline, and which sinks each source feeds."""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from streamdepth.config.commands import check_used
from streamdepth.core.errors import OutputExistsError, SourceError, UsageError, redact
from streamdepth.core.host import cores, file_key, plan_threads
from streamdepth.core.look import LookControl
from streamdepth.core.queues import Policy
from streamdepth.sinks.files import partial_path
from streamdepth.sinks.names import NAME, filled, output_of, safe_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from streamdepth.config import RunConfig
    from streamdepth.core.contracts import Sink, Source
    from streamdepth.core.errors import StreamDepthError
    from streamdepth.core.host import ThreadPlan
    from streamdepth.depth.alignment import Anchor
    from streamdepth.depth.odometry import KnownMotion
    from streamdepth.depth.range import RangeSwitch
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.pipeline.stabilization import StabilizeSwitch
    from streamdepth.serve.site import WebSite
    from streamdepth.sinks.rtsp.server import RtspServers


@dataclass(frozen=True)
class Job:
    """The sources of one pipeline.

    Attributes:
        names: source id -> what ``{name}`` stands for in its outputs.
    """

    sources: tuple[Source, ...]
    config: RunConfig
    names: Mapping[str, str]
    threads: ThreadPlan
    policy: str | None = None
    servers: Servers = field(default_factory=lambda: Servers(), compare=False)

    @property
    def title(self) -> str:
        return ", ".join(source.id for source in self.sources)

    @property
    def files(self) -> list[str]:
        """Files and folders that the sinks write."""
        return [*self.outputs, *self.depths, *self.event_files]

    @property
    def outputs(self) -> list[str]:
        """What the image sinks write, of all sources."""
        return self._named_all(self.config.output)

    @property
    def depths(self) -> list[str]:
        """What the depth data sinks write, of all sources."""
        return self._named_all(self.config.data)

    @property
    def event_files(self) -> list[str]:
        """Files of events, of all sources."""
        return self._named_all(_event_files(self.config))

    def complete(self) -> bool:
        """True if there are outputs, and all exist."""
        given = (*self.config.output, *self.config.data, *_event_files(self.config))
        found = [output_of(one, (), self.names[source.id]) for source in self.sources for one in given]
        return bool(found) and all(output.exists() for output in found)

    def partials(self) -> dict[str, int]:
        """Files that exist under their partial name, each with the time of its last change in ns."""
        paths = [partial_path(Path(file)) for file in self.files if Path(file).name]
        return {str(path): path.stat().st_mtime_ns for path in paths if path.is_file()}

    def _named_all(self, outputs: Sequence[str]) -> list[str]:
        return [filled(output, self.names[source.id]) for source in self.sources for output in outputs]

    def sinks(self, source: Source, estimator: DepthEstimator, switches: Switches | None) -> Sequence[Sink]:
        """The sinks of one source; called by the pipeline."""
        return make_sinks(self.config, source, estimator, switches, servers=self.servers, names=self.names)


class Servers:
    """Servers that the sinks of several sources share: RTSP servers by address, pages by URL."""

    def __init__(self) -> None:
        self._rtsp: RtspServers | None = None
        self._pages: dict[str, WebSite] = {}

    @property
    def rtsp(self) -> RtspServers:
        if self._rtsp is None:
            from streamdepth.sinks.rtsp.server import RtspServers

            self._rtsp = RtspServers()
        return self._rtsp

    def page(self, url: str, config: RunConfig, estimator: DepthEstimator) -> WebSite:
        from streamdepth.serve.options import WebSettings
        from streamdepth.serve.site import WebSite

        if url not in self._pages:
            settings = WebSettings(model_every=config.model_every, stabilize=config.stabilize == "on")
            self._pages[url] = WebSite(url, estimator=estimator, token_file=config.token_file, settings=settings)
        return self._pages[url]


def plan(config: RunConfig, on_status: Callable[[str], None]) -> list[Job]:
    """Plan the pipelines of a run: one per clip, one for all cameras and streams.

    Args:
        on_status: called with a line of text when the connection of a source is lost or restored.
    Raises:
        UsageError: no source, no output, or outputs that would overwrite each other or the sources.
        StreamDepthError: a source that is not there.
    """
    from streamdepth.sinks.files import check_distinct
    from streamdepth.sources.find import ObjectSource
    from streamdepth.sources.select import at_once, expand

    if not config.sources:
        raise UsageError("no source given; name a file, a folder, a camera (0), a URL or test:")
    if not (config.output or config.data or config.show or config.serve or config.events or config.zone):
        raise UsageError("no output for the depth; add -o OUT, --data OUT, --serve URL or --show")
    if "-" in (*config.output, *config.data):
        raise UsageError("-: nothing is written to standard output; name a file such as out.mkv, or a folder/")
    for url in config.serve:
        if not (serves_page(url) or url.lower().startswith(("rtsp://", "rtsps://"))):
            raise UsageError(
                f"{redact(url)}: only rtsp:// and http:// can be served; use e.g. rtsp://127.0.0.1:8554/depth "
                "for players, or http://127.0.0.1:8080 for browsers"
            )
    check_used(config)
    threads = thread_plan(config, at_once(config.sources))
    sources = expand(_endless_tests(config), **config.source_options(threads.decoder, on_status))
    if len(sources) > 1:
        _check_names(config)
    names = _names(sources)
    sources = sources[config.shard_of]
    live = tuple(source for source in sources if source.live or _is_endless_test(source))
    jobs = [Job((source,), config, names, threads, config.policy) for source in sources if source not in live]
    if live and jobs:
        raise UsageError(
            f"{live[0].id} is live and {jobs[0].title} is a file, which need different timing; run them separately"
        )
    metric_from(config)
    if live and config.odometry is not None:
        raise UsageError(f"odometry {config.odometry}: {live[0].id} is live, without media time; give a video file")
    planned = [Job(live, config, names, threads, config.policy or Policy.LATEST)] if live else jobs
    if config.skip_existing and config.overwrite:
        raise UsageError("skip-existing and overwrite exclude each other; omit one of them")
    check_distinct(file for job in planned for file in job.files)
    urls = {source.url for source in sources if isinstance(source, ObjectSource)}
    for output in (file for job in planned for file in job.files):
        if output in urls:
            raise UsageError(f"{redact(output)}: is the input; choose another name for the output")
    return planned


def metric_from(config: RunConfig) -> Sequence[Anchor] | KnownMotion:
    """What makes the depth of a relative model metric; empty if nothing does.

    Raises:
        UsageError: odometry without intrinsics or with anchors, or a file that cannot be read.
        DataFormatError: the odometry is not valid.
    """
    if config.odometry is None:
        return config.anchor
    from streamdepth.depth.odometry import KnownMotion
    from streamdepth.geometry.readers import camera_of

    camera = camera_of(config.intrinsics, config.fov)
    if config.anchor:
        raise UsageError("odometry and anchor exclude each other; give one of them")
    if camera is None:
        raise UsageError(f"odometry {config.odometry}: needs the camera's intrinsics; give --intrinsics or --fov")
    return KnownMotion.read(config.odometry, camera)


def _event_files(config: RunConfig) -> tuple[str, ...]:
    return () if config.events in (None, "-") else (config.events,)


def _endless_tests(config: RunConfig) -> list[str]:
    """The sources, where ``test:`` without a number of frames is endless if it is only served or shown."""
    limited = config.max_frames is not None or config.duration is not None
    if limited or any(one != "null:" for one in (*config.output, *config.data)) or not (config.serve or config.show):
        return list(config.sources)
    return [
        f"{text}{'&' if '?' in text else '?'}frames=0" if re.match(r"test:(?!.*\bframes=)", text, re.I) else text
        for text in config.sources
    ]


def _is_endless_test(source: Source) -> bool:
    from streamdepth.sources.pattern import PatternSource

    return isinstance(source, PatternSource) and source.endless


def without_existing(jobs: list[Job]) -> tuple[list[Job], list[str]]:
    """The jobs that have an output to write, and a note for each of the others: all their outputs exist."""
    todo, notes = [], []
    for job in jobs:
        if job.complete():
            notes.append(f"{job.title}: skipped, {', '.join(job.files)} exists")
        else:
            todo.append(job)
    return todo, notes


def is_skipped(error: StreamDepthError, jobs: Sequence[Job]) -> bool:
    """True if the run continues with the next of several clips: this one cannot be read, or its output exists."""
    return len(jobs) > 1 and isinstance(error, SourceError | OutputExistsError)


def thread_plan(config: RunConfig, at_once: int) -> ThreadPlan:
    """Threads of the model, of each decoder and of each colour stage of a run, unless the configuration sets them.

    Args:
        at_once: number of sources that run at the same time.
    """
    twice = config.range in (None, "shot") and config.policy is not Policy.LATEST and bool(config.output)
    outputs = len(config.output) + len(config.serve) + len(config.data)
    planned = plan_threads(
        config.threads or cores(), decoders=at_once * (2 if twice else 1), encoders=at_once * outputs
    )
    return replace(
        planned,
        decoder=config.decoder_threads or planned.decoder,
        kernels=config.color_threads or planned.kernels,
    )


def _check_names(config: RunConfig) -> None:
    for output in (*config.output, *config.data, *config.serve):
        if NAME not in output and output != "null:" and not serves_page(output):
            raise UsageError(
                f"{output}: several sources need an output each; write {NAME} for the name of the source, "
                f"e.g. {_example(output)}"
            )


def _example(output: str) -> str:
    if "://" in output or output.endswith("/") or not Path(output).suffix:
        return f"{output.rstrip('/')}/{NAME}"
    path = Path(output)
    return str(path.with_name(f"{path.stem}-{NAME}{path.suffix}"))


def _names(sources: Iterable[Source]) -> dict[str, str]:
    """Source id -> its name without folder and suffix, or with them if another source has the same one."""
    stems = {source.id: Path(source.id).stem for source in sources}
    often = Counter(file_key(safe_name(stem)) for stem in stems.values())
    return {key: stem if often[file_key(safe_name(stem))] == 1 else key for key, stem in stems.items()}


def serves_page(url: str) -> bool:
    """True for a page for browsers, False for a stream for players."""
    return url.lower().startswith(("http://", "https://"))


class Switches(NamedTuple):
    """What served pages change during a run, beside the look."""

    range: RangeSwitch
    stabilize: StabilizeSwitch


def page_switches(config: RunConfig) -> Switches | None:
    """The switches of a run; None if there is no page.

    Raises:
        UsageError: a page with ``--range shot``, which is fixed before the first frame.
    """
    if not any(serves_page(url) for url in config.serve):
        return None
    from streamdepth.depth.range import RangeSpec, RangeSwitch
    from streamdepth.pipeline.stabilization import StabilizeSwitch

    return Switches(RangeSwitch(RangeSpec.parse(config.range or "ema")), StabilizeSwitch(config.stabilize == "on"))


def make_sinks(
    config: RunConfig,
    source: Source,
    estimator: DepthEstimator,
    switches: Switches | None,
    *,
    servers: Servers,
    names: Mapping[str, str],
) -> list[Sink]:
    """All sinks of one source, unopened."""
    from streamdepth.geometry.readers import camera_of
    from streamdepth.sinks.select import StreamOptions, data_sink_for, sink_for

    look, name = config.look, names[source.id]
    intrinsics = camera_of(config.intrinsics, config.fov)
    stream = StreamOptions(
        rate=config.stream_rate,
        gop_seconds=config.gop,
        credentials_file=config.credentials,
        timeout_seconds=config.timeout,
        retries=config.retries,
        tls_ca=config.tls_ca,
        max_clients=config.max_clients,
        low_latency=config.latency == "low",
        servers=servers.rtsp if config.serve else None,
    )
    sinks: list[Sink] = [
        sink_for(
            output,
            name=name,
            look=look,
            overwrite=config.overwrite,
            codec=config.codec,
            crf=config.crf,
            preset=config.preset,
            bitrate=config.bitrate,
            threads=config.encoder_threads or 0,
            hwaccel=config.hwaccel,
            audio=config.audio,
            serve=serve,
            stream=stream,
            intrinsics=intrinsics,
            model=estimator.spec.name,
            purpose=config.purpose,
            mcap_depth=config.mcap_depth,
            mcap_points=config.mcap_points,
        )
        for outputs, serve in ((config.output, False), (config.serve, True))
        for output in outputs
        if not (serve and serves_page(output))
    ]
    if switches is not None:
        from streamdepth.serve.site import WebSink

        for url in filter(serves_page, config.serve):
            site = servers.page(url, config, estimator)
            view = site.add_view(
                source.id,
                control=LookControl(look),
                range_switch=switches.range,
                stabilize_switch=switches.stabilize,
            )
            sinks.append(WebSink(source=source, site=site, view=view))
    sinks += [
        data_sink_for(
            output,
            name=name,
            overwrite=config.overwrite,
            size=config.data_size,
            model=estimator.spec.name,
            model_revision=estimator.spec.revision,
            intrinsics=intrinsics,
            mcap_depth=config.mcap_depth,
            mcap_points=config.mcap_points,
            exr_unit=config.exr_unit,
            lerobot_max=config.lerobot_max,
        )
        for output in config.data
    ]
    if config.events or config.zone:
        from streamdepth.sinks.robotics.zones import ZoneEventsSink

        target = sys.stdout if config.events in (None, "-") else filled(config.events, name)
        zones, rate = config.zone, config.events_rate
        sinks.append(ZoneEventsSink(target, zones=zones, rate=rate, overwrite=config.overwrite))
    if config.show == "rerun":
        from streamdepth.sinks.robotics.rerun import VIEWER, RerunSink

        sinks.append(RerunSink(VIEWER, intrinsics=intrinsics))
    elif config.show:
        from streamdepth.sinks.window.sink import WindowSink

        title = f"streamdepth {source.id}" if len(names) > 1 else "streamdepth"
        # A file that is written as well is not slowed down to its playing speed.
        sinks.append(WindowSink(title, control=LookControl(look), paced=not source.live and not sinks))
    return sinks
