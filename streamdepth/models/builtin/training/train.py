"""Train the network on rendered shards and their pseudo-labels. Continues from its checkpoint."""

from __future__ import annotations

import argparse
import copy
import logging
import math
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from streamdepth.models.builtin.training.data import Shards
from streamdepth.models.builtin.training.losses import depth_loss, shape_loss, steady_loss
from streamdepth.models.builtin.training.network import Net, from_imagenet, from_onnx

log = logging.getLogger("train")

WARM_UP_STEPS = 50
SAVE_STEPS = 100
EMA = 0.998


def initial(where: str) -> dict[str, torch.Tensor]:
    return from_imagenet() if where == "imagenet" else from_onnx(Path(where))


def rate(step: int, steps: int) -> float:
    """Share of the full learning rate: a short warm-up, then half a cosine to 2 %."""
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the shards, labelled")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint, continued where it exists")
    parser.add_argument("--init", default="imagenet", help="'imagenet', or an ONNX file of this network to start from")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--coarse-steps", type=int, default=1500, help="number of first steps on smaller images")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3, help="decoder's learning rate")
    parser.add_argument("--encoder-rate", type=float, default=2e-4)
    parser.add_argument("--frozen", type=int, default=5, help="number of frozen encoder blocks (0: train all)")
    parser.add_argument("--teacher", type=float, default=0.7, help="weight of the pseudo-labels in rooms")
    parser.add_argument("--steady", type=float, default=1.0, help="weight of agreement between neighbouring frames")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    net = Net(args.frozen)
    net.load_state_dict(initial(args.init))
    net.freeze()
    net = net.to(memory_format=torch.channels_last)
    mean = copy.deepcopy(net)
    encoder = [p for n, p in net.named_parameters() if p.requires_grad and n.startswith(("stem", "blocks"))]
    decoder = [p for n, p in net.named_parameters() if p.requires_grad and not n.startswith(("stem", "blocks"))]
    optimizer = torch.optim.AdamW([{"params": encoder}, {"params": decoder}], lr=0.0, weight_decay=1e-2)
    step = 0
    if args.out.exists():
        saved = torch.load(args.out)
        net.load_state_dict(saved["net"])
        mean.load_state_dict(saved["mean"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        log.info("going on at step %d", step)

    loader = iter(
        DataLoader(
            Shards(args.data, args.batch, args.seed, step, args.coarse_steps),
            batch_size=None,
            num_workers=1,
            prefetch_factor=4,
        )
    )
    net.train()
    start, first, shape_sum, depth_sum, steady_sum = time.monotonic(), step, 0.0, 0.0, 0.0
    while step < args.steps:
        for group, full in zip(optimizer.param_groups, (args.encoder_rate, args.rate), strict=True):
            group["lr"] = full * rate(step, args.steps)
        rgb, inv, teacher, flags, ways = next(loader)
        x = (rgb.permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            p = net(x)
        p = p.float()
        whole = torch.ones_like(p)
        shape, depth = shape_loss(p, inv, whole, 0.5), depth_loss(p, inv, flags[:, 0])
        taught = shape_loss(p, teacher, whole * flags[:, 1, None, None], 0.0)
        steady = steady_loss(p, ways)
        loss = shape + depth + args.steady * steady + args.teacher * taught * flags[:, 1].mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            for slow, fast in zip(mean.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, 1 - min(EMA, (1 + step) / (10 + step)))
        shape_sum, depth_sum, steady_sum = (
            shape_sum + shape.item(),
            depth_sum + depth.item(),
            steady_sum + steady.item(),
        )
        if step % 20 == 0:
            speed = (step - first) * args.batch / (time.monotonic() - start)
            log.info(
                "step %d shape %.3f depth %.3f steady %.3f, %.1f images/s",
                step,
                shape_sum / 20,
                depth_sum / 20,
                steady_sum / 20,
                speed,
            )
            shape_sum = depth_sum = steady_sum = 0.0
        if step % SAVE_STEPS == 0 or step == args.steps:
            part = args.out.with_suffix(".part")
            torch.save(
                {"net": net.state_dict(), "mean": mean.state_dict(), "optimizer": optimizer.state_dict(), "step": step},
                part,
            )
            part.replace(args.out)


if __name__ == "__main__":
    main()
