"""A custom sink next to a video file: python custom_sink.py CLIP OUT.mp4

The sink prints a line for each frame in which the nearest fifth of the depth range covers more than a given share
of the image.
"""

import sys

import streamdepth as sd


class ProximityAlarm(sd.BaseSink):
    """Counts frames in which near pixels cover more than ``share`` of the image. Takes depth only, no colours."""

    def __init__(self, share: float) -> None:
        super().__init__("proximity alarm")
        self._share = share
        self.alarms = 0

    def process(self, result: sd.Result) -> None:
        """Called once per frame, in order, on this sink's own thread."""
        scale, offset = result.range.nearness_scale_offset(result.depth.sense)
        near = (result.depth.values * scale + offset > 0.8).mean()
        if near > self._share:
            self.alarms += 1
            print(f"{result.frame.seconds:.2f} s: {near:.0%} of the image is near")


def main(clip: str, out: str) -> None:
    alarm = ProximityAlarm(share=0.1)
    video = sd.sink_for(out, look=sd.Look(style="turbo", view=sd.View.SIDE), overwrite=True)
    with sd.Pipeline([clip], sd.DepthEstimator(), [video, alarm]) as pipeline:
        stats = pipeline.run()
    print(f"{stats.captured} frames captured, {stats.processed} processed, {alarm.alarms} alarms")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__.splitlines()[0], file=sys.stderr)
        sys.exit(2)
    main(*sys.argv[1:])
