"""Change of depth between frames beyond the motion in the clip: the built-in model and others.

    python benchmarks/steadiness.py CLIP [--start N] [--frames N] [--model NAME ...] [--fastdepth FILE]
    python benchmarks/steadiness.py --stabilize [CLIP ...] [--walk room|street|still|night ...] [--frames N]
        [--model NAME ...] [--picture OUT.jpg]

Depth of each frame is warped along the optical flow (DIS) to the next frame and compared with that frame's depth after
fitting scale and shift by least squares: mean absolute difference divided by the standard deviation of the depth, where
forward and backward flow agree within one pixel. `in place` is the same without warping and includes real motion. 0 is
no change; constant depth has no value.

--stabilize measures `--stabilize on` instead: unfiltered depth, the live filter and the filter for files. SF, F2 and
still (see support/steady.py) are shares of the depth range, and ratios to unfiltered depth; edge F1 is the agreement of
edges with unfiltered depth. --walk renders videos with exact depth, which give AbsRel, delta1 and TAE. ms is CPU time
per frame at the model's output size, all threads together. The last rows are geometric means of the ratios. --picture
writes depth of the first clip and model, unfiltered above, and slices of one row over time.
"""

from __future__ import annotations

import argparse
from itertools import islice, pairwise
from pathlib import Path

import av
import cv2
import numpy as np
from support.models import Predict, fastdepth, product

FLOW_WIDTH_PX = 480
AGREED_PX = 1.0


def frames(clip: Path, start: int, count: int) -> list[np.ndarray]:
    """RGB uint8 [H, W, 3] of `count` frames of the clip's main video stream."""
    with av.open(str(clip)) as container:
        decoded = container.decode(container.streams.best("video"))
        return [frame.to_ndarray(format="rgb24") for frame in islice(decoded, start, start + count)]


def moved(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position in `before` of each pixel of `after`, float32 [h, w, 2] in px, and where both flows agree, bool [h, w].

    Both frames are RGB; results are FLOW_WIDTH_PX wide.
    """
    size = (FLOW_WIDTH_PX, round(FLOW_WIDTH_PX * before.shape[0] / before.shape[1]))
    grey = [
        cv2.cvtColor(cv2.resize(f, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY) for f in (before, after)
    ]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    back, forth = dis.calc(grey[1], grey[0], None), dis.calc(grey[0], grey[1], None)
    place = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in size)), 2) + back
    returned = back + cv2.remap(forth, place, None, cv2.INTER_LINEAR)
    inside = ((place >= 0) & (place <= np.array(size) - 1)).all(2)
    return place, inside & (np.linalg.norm(returned, axis=2) < AGREED_PX)


def change(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute difference of two depths over the deviation of the first, after fitting scale and shift."""
    a = np.stack([after, np.ones_like(after)], 1)
    fitted = a @ np.linalg.lstsq(a, before, rcond=None)[0]
    return float(np.abs(fitted - before).mean() / before.std())


def steadiness(
    predict: Predict, clip: list[np.ndarray], flow: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[float, ...]:
    """(change along the flow, change in place), means over neighbouring frames."""
    size = flow[0][1].shape[::-1]
    depths = [cv2.resize(predict(f).astype(np.float32), size, interpolation=cv2.INTER_LINEAR) for f in clip]
    out = []
    for (before, after), (place, seen) in zip(pairwise(depths), flow, strict=True):
        there = cv2.remap(before, place, None, cv2.INTER_LINEAR)
        out.append((change(there[seen], after[seen]), change(before.ravel(), after.ravel())))
    return tuple(np.mean(out, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, nargs="*")
    parser.add_argument("--start", type=int, default=0, help="first frame")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--model", action="append", default=None, help="name or file, repeatable; default: built-in")
    parser.add_argument("--size", help="network size for --model")
    parser.add_argument("--fastdepth", type=Path)
    parser.add_argument("--stabilize", action="store_true", help="measure the filter of --stabilize on")
    parser.add_argument(
        "--walk", action="append", default=[], help="room, street, still or night, rendered; repeatable"
    )
    parser.add_argument("--picture", help="write an image to this file")
    args = parser.parse_args()
    if args.stabilize:
        from support.stabilization import table

        table(args.clip, args.walk, args.model or ["built-in"], args.frames, args.picture)
        return
    if len(args.clip) != 1:
        parser.error("give one clip, or --stabilize")
    args.clip = args.clip[0]
    models: dict[str, Predict] = {"FastDepth": fastdepth(args.fastdepth)} if args.fastdepth else {}
    for name in args.model or ["built-in"]:
        models[name if name == "built-in" else Path(name).stem] = product(name, args.size)
    clip = frames(args.clip, args.start, args.frames)
    if len(clip) < 2:
        parser.error(f"{args.clip} has fewer than two frames from frame {args.start} on")
    flow = [moved(before, after) for before, after in pairwise(clip)]
    print("| change from frame to frame | along the flow | in place |")
    print("|---|---|---|")
    for name, predict in models.items():
        along, in_place = steadiness(predict, clip, flow)
        print(f"| {name} | {along:.3f} | {in_place:.3f} |", flush=True)


if __name__ == "__main__":
    main()
