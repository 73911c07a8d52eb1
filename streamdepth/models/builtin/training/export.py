"""Checkpoint -> ONNX, written node by node, without the extra nodes of a traced export."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from streamdepth.models.builtin.training.network import BLOCKS, MEAN, STD, Net, from_onnx

OPSET = 17
HALF_FROM = 256
"""Tensors with at least this many values are stored in half precision and cast when the model loads."""


class Graph:
    """A graph under construction; every method adds a node and returns the name of its output."""

    def __init__(self, state: dict[str, np.ndarray]) -> None:
        self.state = state
        self.casts: list[onnx.NodeProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def const(self, name: str, value: np.ndarray) -> str:
        if value.dtype == np.float32 and value.size >= HALF_FROM:
            self.weights.append(numpy_helper.from_array(value.astype(np.float16), f"{name}_half"))
            self.casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
        else:
            self.weights.append(numpy_helper.from_array(value, name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def conv(
        self, x: str, name: str, pads: tuple[int, int, int, int] = (0, 0, 0, 0), stride: int = 1, group: int = 1
    ) -> str:
        weight, bias = (self.const(f"{name}.{part}", self.state[f"{name}.{part}"]) for part in ("weight", "bias"))
        kernel = self.state[f"{name}.weight"].shape[2:]
        return self.op(
            "Conv", x, weight, bias, kernel_shape=list(kernel), pads=list(pads), strides=[stride] * 2, group=group
        )

    def relu6(self, x: str) -> str:
        return self.op("Clip", x, "zero", "six")

    def double(self, x: str) -> str:
        return self.op("Resize", x, "", "scales", mode="linear", coordinate_transformation_mode="half_pixel")

    def block(self, i: int, x: str) -> str:
        expansion, kernel, stride, inputs, outputs = BLOCKS[i]
        inner = inputs * expansion
        y = self.relu6(self.conv(x, f"blocks.{i}.expand")) if expansion > 1 else x
        before = (kernel - 2) // 2
        pads = (kernel // 2,) * 4 if stride == 1 else (before, before, kernel - 2 - before, kernel - 2 - before)
        y = self.relu6(self.conv(y, f"blocks.{i}.depthwise", pads, stride, inner))
        y = self.conv(y, f"blocks.{i}.project")
        return self.op("Add", x, y) if stride == 1 and inputs == outputs else y

    def mix(self, x: str, name: str) -> str:
        return self.op("Relu", self.conv(x, f"{name}.0", (1, 1, 1, 1)))


def build(state: dict[str, np.ndarray]) -> onnx.ModelProto:
    """pixel_values float32 [batch, 3, height, width] -> predicted_depth float32 [batch, height/2, width/2]."""
    g = Graph(state)
    for name, value in (("zero", 0.0), ("six", 6.0), ("mean", MEAN), ("deviation", STD)):
        g.const(name, np.array(value, np.float32))
    g.const("scales", np.array([1, 1, 2, 2], np.float32))
    x = g.op("Div", g.op("Sub", "pixel_values", "mean"), "deviation")
    x = g.relu6(g.conv(x, "stem", (0, 0, 1, 1), 2))
    kept = []
    for i, shape in enumerate(BLOCKS):
        if shape[2] == 2:
            kept.append(x)
        x = g.block(i, x)
    f1, f2, f3, f4 = kept
    rows = g.const("rows", state["rows"])
    height = g.op("Slice", g.op("Shape", x), g.const("two", np.array([2])), g.const("three", np.array([3])))
    fixed = [g.const(n, np.array(v)) for n, v in (("front", [1, state["rows"].shape[1]]), ("one", [1]))]
    rows = g.op(
        "Resize",
        rows,
        "",
        "",
        g.op("Concat", fixed[0], height, fixed[1], axis=0),
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    whole = g.conv(g.op("ReduceMean", x, axes=[2, 3], keepdims=1), "whole")
    y = g.mix(g.op("Add", g.op("Add", g.conv(x, "side5"), whole), rows), "mix5")
    y = g.mix(g.mix(g.op("Add", g.double(y), g.conv(f4, "side4")), "mix4"), "mix4b")
    for name, side, feature in (("mix3", "side3", f3), ("mix2", "side2", f2), ("mix1", "side1", f1)):
        y = g.mix(g.op("Add", g.double(y), g.conv(feature, side)), name)
    y = g.conv(y, "head", (1, 1, 1, 1))
    g.nodes.append(helper.make_node("Squeeze", [y, "one"], ["predicted_depth"], name="squeeze"))
    image = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    depth = helper.make_tensor_value_info("predicted_depth", TensorProto.FLOAT, ["batch", "half_height", "half_width"])
    graph = helper.make_graph([*g.casts, *g.nodes], "scene", [image], [depth], g.weights)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="streamdepth training"
    )


def load(sources: list[str]) -> dict[str, np.ndarray]:
    """Weights of checkpoints and ONNX files, `FILE` or `FILE:SHARE`, as a weighted average."""
    total, states = 0.0, []
    for source in sources:
        file, _, share = source.partition(":")
        path = Path(file)
        state = from_onnx(path) if path.suffix == ".onnx" else torch.load(path, map_location="cpu")["mean"]
        states.append((state, float(share or 1)))
        total += float(share or 1)
    keys = Net().state_dict()
    return {k: (sum(state[k].float() * share for state, share in states) / total).numpy() for k in keys}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="+", help="checkpoint or ONNX file; several as FILE:SHARE are averaged")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="scene")
    parser.add_argument("--version", default="1")
    parser.add_argument("--note", default="", help="how it was trained, for the file's metadata")
    args = parser.parse_args()
    state = load(args.weights)
    model = build(state)
    digest = hashlib.sha256(
        b"".join(np.ascontiguousarray(state[k], np.float16).tobytes() for k in sorted(state))
    ).hexdigest()
    details = {
        "name": args.name,
        "version": args.version,
        "streamdepth.sense": "relative_inverse",
        "license": "MIT",
        "weights_sha256": digest,
        "training": args.note,
    }
    helper.set_model_props(model, details)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, args.out)
    print(json.dumps({**details, "file": args.out.name, "bytes": args.out.stat().st_size}, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
