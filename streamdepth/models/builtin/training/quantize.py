"""8-bit version of an exported model: static QDQ, weights per channel, ranges measured on rendered images."""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from streamdepth.models.builtin.training.views import sizes_for

PICTURES_A_SHARD = 12
KINDS = ["Conv", "Add", "Clip", "Relu"]


class Renders(CalibrationDataReader):
    """The first images of the first shards, at their network size."""

    def __init__(self, data: Path, shards: int) -> None:
        self.rows = iter([x for path in islice(sorted(data.glob("shard????.npz")), shards) for x in self._read(path)])

    def _read(self, path: Path) -> list[np.ndarray]:
        with np.load(path) as shard:
            images = shard["rgb"][:PICTURES_A_SHARD]
        size = sizes_for(images.shape[2], images.shape[1], coarse=False)[0]
        fitted = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in images]
        return [np.ascontiguousarray(f.transpose(2, 0, 1)[None]).astype(np.float32) / 255 for f in fitted]

    def get_next(self) -> dict[str, np.ndarray] | None:
        row = next(self.rows, None)
        return None if row is None else {"pixel_values": row}


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float32 weights instead of half precision and casts, as the quantizer requires."""
    weights = {w.name: w for w in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in weights:
            weight = weights[node.input[0]]
            full = numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(full, node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="ONNX file of `streamdepth.models.builtin.training.export`")
    parser.add_argument("--data", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=8)
    args = parser.parse_args()
    model = widened(onnx.load(args.model))
    head = [node.name for node in model.graph.node if node.op_type == "Conv"][-1]  # 8 bits would show as steps in depth
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / "full.onnx"
        onnx.save(model, full)
        quantize_static(
            full,
            args.out,
            Renders(args.data, args.shards),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=KINDS,
            nodes_to_exclude=[head],
        )
    print(json.dumps({"file": args.out.name, "bytes": args.out.stat().st_size}))  # noqa: T201


if __name__ == "__main__":
    main()
