# mypy: ignore-errors
"""Make the goldens of ``test_preprocess_goldens.py`` with the real ``transformers`` pipeline.

Not run by the tests, which need neither torch nor transformers. To regenerate, in an environment of its own::

    pip install torch==2.13.0 transformers==5.23.0 torchvision pillow onnx onnxruntime onnxscript
    python tests/goldens/make_goldens.py

For each architecture it writes a folder with a random-weight network of a few thousand parameters (``model.onnx``), the
configuration files ``transformers`` saves beside it, and ``golden.npz``: for each pixels of ``images.npz`` the
pipeline's ``predicted_depth`` and ``depth``, the network's raw output, and every fifth row and column of its input.

DPT, GLPN and ZoeDepth use the PIL back end of their image processor (the reference back end, and the only one the
formulae agree on to the last bit); DepthPro has only the torchvision one.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
SIZES = ((131, 97), (97, 131), (160, 120), (64, 32), (203, 77))  # width, height
STRIDE = 5


def prepare_torchvision() -> None:
    """Let torchvision's Python parts load where its compiled ones were built for another torch."""
    library = torch.library.Library("torchvision", "DEF")
    try:
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass  # the compiled part is there
    globals()["_library"] = library  # its registrations end with it


def pixels(width: int, height: int, seed: int) -> np.ndarray:
    """Gradients, a few hard-edged shapes and fine stripes: something for every error of a resize to show on."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    image = np.stack([x / width, y / height, 0.5 + 0.5 * np.sin(x * 0.9 + y * 0.4)], axis=-1)
    for _ in range(4):
        x0, y0 = rng.integers(0, width - 8), rng.integers(0, height - 8)
        image[y0 : y0 + height // 3, x0 : x0 + width // 3] = rng.uniform(0, 1, 3)
    image[:: max(height // 9, 2)] *= 0.4
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


class Wrapped(torch.nn.Module):
    """The network with plain tensors in and out, which is all an exporter wants to see."""

    def __init__(self, model: torch.nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.model(pixel_values=pixel_values)
        return tuple(result[name] for name in self.outputs)


def dinov2(stages: tuple[int, ...], image_size: int = 56):
    from transformers import Dinov2Config

    return Dinov2Config(
        hidden_size=16,
        num_hidden_layers=max(stages),
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=image_size,
        patch_size=14,
        out_features=[f"stage{n}" for n in stages],
        reshape_hidden_states=False,
        apply_layernorm=True,
        initializer_range=0.2,
    )


def depth_anything():
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, DPTImageProcessorPil
    from transformers.models.depth_anything import modeling_depth_anything

    # its head calls int() on the size it upsamples to, which would freeze the example's into the graph
    modeling_depth_anything.int = lambda value: value if isinstance(value, torch.SymInt) else int(value)

    config = DepthAnythingConfig(
        backbone_config=dinov2((1, 2, 3, 4)),
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    processor = DPTImageProcessorPil(
        size={"height": 70, "width": 70}, keep_aspect_ratio=True, ensure_multiple_of=14, resample=3
    )
    return DepthAnythingForDepthEstimation(config), processor, ("predicted_depth",), None


def dpt_padded():
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessorPil

    config = DPTConfig(
        backbone_config=dinov2((1, 2, 3, 4)),
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        reassemble_factors=[4, 2, 1, 0.5],
        readout_type="project",
    )
    config.backbone_config.reshape_hidden_states = False
    processor = DPTImageProcessorPil(
        do_resize=False,
        do_rescale=False,
        do_pad=True,
        size_divisor=14,
        image_mean=[123.675, 116.28, 103.53],
        image_std=[58.395, 57.12, 57.375],
    )
    return DPTForDepthEstimation(config), processor, ("predicted_depth",), None


def dpt():
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessorPil

    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        is_hybrid=False,
        readout_type="project",
        initializer_range=0.2,
    )
    processor = DPTImageProcessorPil(
        size={"height": 64, "width": 64}, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return DPTForDepthEstimation(config), processor, ("predicted_depth",), (64, 64)


def glpn():
    from transformers import GLPNConfig, GLPNForDepthEstimation, GLPNImageProcessorPil

    config = GLPNConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
        initializer_range=0.2,
    )
    return GLPNForDepthEstimation(config), GLPNImageProcessorPil(), ("predicted_depth",), None


def zoedepth():
    from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation, ZoeDepthImageProcessorPil

    backbone = BeitConfig(
        image_size=64,
        patch_size=16,
        num_hidden_layers=4,
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        use_relative_position_bias=True,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        initializer_range=0.1,
    )
    config = ZoeDepthConfig(
        backbone_config=backbone,
        backbone_hidden_size=16,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=8,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
    )
    # its backbone does not export with dynamic sizes
    processor = ZoeDepthImageProcessorPil(
        size={"height": 64, "width": 96}, keep_aspect_ratio=False, ensure_multiple_of=32
    )
    return ZoeDepthForDepthEstimation(config), processor, ("predicted_depth",), (96, 64)


def depth_pro():
    from transformers import DepthProConfig, DepthProForDepthEstimation, DepthProImageProcessor

    encoder = {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": 32,
        "patch_size": 8,
        "initializer_range": 0.2,
    }
    config = DepthProConfig(
        fusion_hidden_size=16,
        patch_size=32,
        intermediate_hook_ids=[2, 1],
        intermediate_feature_dims=[8, 8],
        scaled_images_ratios=[0.5, 1],
        scaled_images_overlap_ratios=[0.0, 0.25],
        scaled_images_feature_dims=[16, 16],
        merge_padding_value=1,
        use_fov_model=True,
        num_fov_head_layers=2,
        image_model_config=encoder,
        patch_model_config=encoder,
        fov_model_config=encoder,
    )
    processor = DepthProImageProcessor(size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return DepthProForDepthEstimation(config), processor, ("predicted_depth", "field_of_view"), (64, 64)


def enliven(model: torch.nn.Module) -> None:
    """Random weights large enough for contrast: fresh heads end in a ReLU over values around 0.

    ZoeDepth's bins amplify: at the others' gain its output would answer to the last bit of its input.
    """
    gain = 1.2 if "Zoe" in type(model).__name__ else 1.6
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and ("head" in name or "neck" in name or "fusion" in name or "decoder" in name):
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (gain / fan_in**0.5))
            elif parameter.ndim == 1 and name.endswith("bias") and "head" in name:
                parameter.fill_(0.3)
        if hasattr(model, "fov_model"):
            # inverse depth away from 0: metres that reach the clamp at 10 km would hide every other error
            for part, bias in ((model.head, 0.5), (model.fov_model, 45.0)):
                last = [module for module in part.modules() if isinstance(module, torch.nn.Conv2d)][-1]
                last.weight.mul_(0.002 * bias)
                last.bias.fill_(bias)


def shrink(path: Path) -> None:
    """Fold constants and drop the long names, which are most of an export of the older kind."""
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(str(path), options)
    proto = onnx.load(str(path))
    keep = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    short: dict[str, str] = {}

    def rename(name: str) -> str:
        return name if not name or name in keep else short.setdefault(name, f"t{len(short)}")

    for node in proto.graph.node:
        node.name = ""
        node.doc_string = ""
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
    for tensor in proto.graph.initializer:
        tensor.name = rename(tensor.name)
    del proto.graph.value_info[:]
    onnx.save(proto, str(path))


def export(
    model: torch.nn.Module, example: torch.Tensor, path: Path, outputs: tuple[str, ...], *, dynamic: bool
) -> None:
    """To ONNX with dynamic sizes where the network takes any."""
    if "Zoe" in type(model.model).__name__:
        # the newer exporter cannot take ZoeDepth's backbone, the older one freezes the batch
        torch.onnx.export(
            model,
            (example[:1],),
            str(path),
            dynamo=False,
            input_names=["pixel_values"],
            output_names=list(outputs),
            opset_version=17,
        )
        shrink(path)
        return
    dim = torch.export.Dim
    # a batch of 1 in the example would be taken for a constant
    example = torch.cat([example, example.flip(-1)])
    shapes = dict.fromkeys((0, 2, 3) if dynamic else (0,), dim.DYNAMIC)
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        input_names=["pixel_values"],
        output_names=list(outputs),
        dynamic_shapes=(shapes,),
        opset_version=18,
        verbose=False,
    )
    proto = program.model_proto
    # where each node came from in Python is nine tenths of the file
    for node in [*proto.graph.node, *(node for function in proto.functions for node in function.node)]:
        node.doc_string = ""
        del node.metadata_props[:]
    del proto.graph.value_info[:]
    path.write_bytes(proto.SerializeToString())


def write(name: str, build, images: dict[str, np.ndarray]) -> None:
    import onnxruntime as ort
    from PIL import Image
    from transformers.pipelines.depth_estimation import DepthEstimationPipeline

    torch.manual_seed(3)
    model, processor, outputs, fixed = build()
    model.set_attn_implementation("eager")
    model.eval()
    enliven(model)
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    example = processor(images=Image.fromarray(images["0"]), return_tensors="pt")["pixel_values"]
    export(Wrapped(model, outputs), example, folder / "model.onnx", outputs, dynamic=fixed is None)
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    pipe = DepthEstimationPipeline(model=model, image_processor=processor)
    plain_forward = model.forward

    def forward(pixel_values: torch.Tensor):
        # ZoeDepth's steps in between bins make its export differ by more than the bound; the pipeline around it then
        # gets the export's own answer
        result = plain_forward(pixel_values=pixel_values)
        if model.answer is not None:
            result.predicted_depth = model.answer
        return result

    model.forward = forward
    model.answer = None
    session = ort.InferenceSession(str(folder / "model.onnx"))
    arrays: dict[str, np.ndarray] = {}
    worst = 0.0
    for key, rgb in images.items():
        image = Image.fromarray(rgb)
        inputs = processor(images=image, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            raw = model(pixel_values=inputs).predicted_depth[0].numpy()
        from_onnx = session.run(["predicted_depth"], {"pixel_values": inputs.numpy()})[0][0]
        spread = float(raw.max() - raw.min())
        worst = max(worst, float(np.abs(from_onnx - raw).max()) / spread)
        pipe.model.answer = torch.from_numpy(from_onnx[None]) if name == "zoedepth" else None
        with torch.no_grad():
            got = pipe(image)
        arrays[f"depth_{key}"] = got["predicted_depth"].numpy().astype(np.float32)
        if key == "0":
            arrays[f"image_{key}"] = np.asarray(got["depth"])
        arrays[f"input_{key}"] = inputs[0, :, ::STRIDE, ::STRIDE].numpy()
        arrays[f"input_shape_{key}"] = np.array(inputs.shape[2:])
    np.savez_compressed(folder / "golden.npz", **arrays)
    size = sum(f.stat().st_size for f in folder.iterdir()) // 1024
    depth = arrays["depth_0"]
    print(f"{name}: {size} kB, export differs by {worst:.1e} of the range, depth {depth.min():.3g}..{depth.max():.3g}")


def main() -> None:
    warnings.simplefilter("ignore")
    prepare_torchvision()
    images = {str(n): pixels(w, h, n) for n, (w, h) in enumerate(SIZES)}
    np.savez_compressed(HERE / "images.npz", **images)
    for build in (depth_anything, dpt, dpt_padded, glpn, zoedepth, depth_pro):
        write(build.__name__, build, images)
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
