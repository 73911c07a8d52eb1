"""Export the Depth Anything V2 small architecture with random weights to ONNX, for benchmarks without downloads.

    pip install torch transformers onnx
    python benchmarks/export_depth_anything.py OUT_FOLDER

Random weights take the same time as trained ones. Writes ``model.onnx`` with dynamic batch, height and width (multiples
of 14), ``config.json`` and ``preprocessor_config.json`` as in a Hub repository, and the ``transformers`` weights, so
that all programs run the same network.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

_PREPROCESSING = {
    "image_processor_type": "DPTImageProcessor",
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_pad": False,
    "keep_aspect_ratio": True,
    "ensure_multiple_of": 14,
    "size": {"height": 518, "width": 518},
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import torch
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    torch.manual_seed(options.seed)
    backbone = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        out_features=["stage3", "stage6", "stage9", "stage12"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
        head_hidden_size=32,
        patch_size=14,
    )
    model = DepthAnythingForDepthEstimation(config).eval()
    _give_contrast(model)
    options.folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(options.folder)
    (options.folder / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSING, indent=2))

    class Depth(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: Any) -> Any:
            # the model's own forward() traces the output size as a constant
            height, width = pixel_values.shape[2], pixel_values.shape[3]
            features = self.model.backbone.forward_with_filtered_kwargs(pixel_values).feature_maps
            head = self.model.head
            depth = head.conv1(self.model.neck(features, height // 14, width // 14)[head.head_in_index])
            depth = torch.nn.functional.interpolate(depth, (height, width), mode="bilinear", align_corners=True)
            depth = head.activation1(head.conv2(depth))
            return (head.activation2(head.conv3(depth)) * head.max_depth).squeeze(dim=1)

    example = torch.rand(2, 3, 252, 280)
    (options.folder / "onnx").mkdir(exist_ok=True)
    # the tracing exporter gives the graph of the published exports, with dynamic sizes
    torch.onnx.export(
        Depth().eval(),
        (example,),
        str(options.folder / "onnx" / "model.onnx"),
        input_names=["pixel_values"],
        output_names=["predicted_depth"],
        dynamic_axes={
            "pixel_values": {0: "batch_size", 2: "height", 3: "width"},
            "predicted_depth": {0: "batch_size", 1: "height", 2: "width"},
        },
        opset_version=17,
        dynamo=False,
    )
    print(options.folder / "onnx" / "model.onnx")


def _give_contrast(model: Any) -> None:
    """Spread the output: a random head gives depth that is nearly flat or all zero, where errors would not show."""
    import torch

    with torch.no_grad():
        model.head.conv3.bias.fill_(1.0)
        model.head.conv3.weight.mul_(1e4)


if __name__ == "__main__":
    main()
