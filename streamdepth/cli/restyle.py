"""``streamdepth restyle``."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from streamdepth.core.errors import UsageError

if TYPE_CHECKING:
    from streamdepth.config.commands import RestyleConfig
    from streamdepth.core.frame import DepthMap


def restyle(config: RestyleConfig) -> None:
    """Colour stored depth again, without a model."""
    from streamdepth.cli.run import summary
    from streamdepth.cli.terminal import frames_bar, progress_shown, say
    from streamdepth.core.look import View
    from streamdepth.pipeline import Pipeline
    from streamdepth.pipeline.stored import StoredDepthModel, StoredDepthSource
    from streamdepth.sinks.depth.reader import read_depth
    from streamdepth.sinks.files import is_same_file
    from streamdepth.sinks.select import sink_for
    from streamdepth.sources.file import FileSource

    look = config.look
    if not config.output:
        raise UsageError("nothing to do with the depth; add -o OUT")
    if config.clip is None and look.view is not View.DEPTH:
        raise UsageError(f"--view {look.view.value} shows frames, too; name the clip after the depth file")
    for output in config.output:
        if any(is_same_file(Path(output), str(one)) for one in (config.depth, config.clip) if one is not None):
            raise UsageError(f"{output}: is the input; choose another name for the output")
    with read_depth(config.depth) as reader:
        name = reader.metadata.model
    maps: deque[DepthMap] = deque()
    source = StoredDepthSource(config.depth, FileSource(config.clip) if config.clip is not None else None, maps=maps)
    sinks = [sink_for(output, look=look, overwrite=config.overwrite) for output in config.output]
    with (
        Pipeline([source], StoredDepthModel(maps, name), sinks, policy="every", range=config.range) as pipeline,
        frames_bar(source.id, pipeline.snapshot, quiet=config.quiet),
    ):
        pipeline.run()
    without = pipeline.stats.dropped.get("no_depth", 0)
    if without:
        say(f"{without} frames of {source.id} have no depth and are left out", quiet=config.quiet)
    if progress_shown(config.quiet):
        say(summary(pipeline.stats, source.id))
