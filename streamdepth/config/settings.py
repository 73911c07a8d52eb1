"""Options that several commands have, and those of the commands beside ``run``."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack

from pydantic import BeforeValidator

from streamdepth.config.options import CameraMode, DepthRange, ExistingFile, Option, Options, Texts, TlsCa
from streamdepth.core import limits
from streamdepth.core.frame import Sense
from streamdepth.core.look import Look, View, parse_alpha
from streamdepth.media.hwaccel import HwAccel
from streamdepth.models.selection import AUTO, SUFFIXES
from streamdepth.models.spec import MATCHES, Match

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streamdepth.inference.model import ModelOptions
    from streamdepth.sources.select import SourceOptions

RUN, SERVE, IMAGE, BENCH, VERIFY, BUILD = "run", "serve", "image", "bench", "verify", "build"
RESTYLE = "restyle"
SHOW, PULL, STYLES, DOCTOR = "models show", "models pull", "styles", "doctor"
_MODELS = (RUN, SERVE, IMAGE, VERIFY, BUILD, SHOW, PULL)
OUTPUT, SERVER, MODEL, COLOR, INPUT, ENCODING = "Output", "Server", "Model", "Depth and colour", "Input", "Encoding"
LONG = "Long runs"
PANELS = ("", OUTPUT, SERVER, MODEL, COLOR, INPUT, ENCODING, LONG)

NORMALIZATIONS: dict[str, dict[str, Any]] = {
    "imagenet": {"do_normalize": True, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "half": {"do_normalize": True, "mean": [0.5] * 3, "std": [0.5] * 3},
    "none": {"do_normalize": False},
}
"""Value of ``--normalize`` -> fields of :class:`~streamdepth.models.spec.Preprocessing`."""


def providers() -> Iterable[str]:
    from streamdepth.inference.providers import provider_names

    return provider_names()


def _palettes() -> Iterable[str]:
    from streamdepth.colorize.palettes import listed_names

    return listed_names()


Alpha = Annotated[tuple[float, float] | None, BeforeValidator(parse_alpha)]
DTYPES = (AUTO, *SUFFIXES)


class Settings(Options):
    """Options of several commands."""

    model: Annotated[str, Option(panel=MODEL, commands=(RUN, SERVE, IMAGE, BENCH), short="-m")] = "built-in"
    """Depth model: built-in, path of an .onnx file or folder, or Hub name (org/name)."""
    dtype: Annotated[str, Option(panel=MODEL, commands=_MODELS, choices=DTYPES)] = "auto"
    """Numeric type of the model file to load from a repository."""
    revision: Annotated[str | None, Option(panel=MODEL, commands=(*_MODELS, BENCH), default="main")] = None
    """Branch, tag or commit of a Hub model."""
    size: Annotated[
        str | int | None,
        Option(panel=MODEL, commands=(RUN, SERVE, IMAGE, VERIFY, BUILD), metavar="N|WxH", default="the model's"),
    ] = None
    """Input size of the network in pixels: N (aspect ratio as the model's preprocessing defines) or WxH."""
    sense: Annotated[
        Sense | None, Option(panel=MODEL, commands=(RUN, SERVE, IMAGE, BENCH, VERIFY), default="from the model")
    ] = None
    """Meaning of the model's output: inverse depth, depth, or metres."""
    input_name: Annotated[str | None, Option(panel=MODEL, commands=(RUN, IMAGE), default="auto-detected")] = None
    """Image input of the graph."""
    output_name: Annotated[str | None, Option(panel=MODEL, commands=(RUN, IMAGE), default="auto-detected")] = None
    """Depth output of the graph."""
    normalize: Annotated[
        str | None, Option(panel=MODEL, commands=(RUN, IMAGE), choices=tuple(NORMALIZATIONS), default="imagenet")
    ] = None
    """Normalization of an .onnx file without preprocessing configuration, after scaling to 0..1: ImageNet mean and
    deviation, mean = deviation = 0.5, or none."""
    match: Annotated[Match, Option(panel=MODEL, commands=(SERVE, IMAGE), choices=MATCHES)] = "transformers"
    """Library whose resizing of images and depth is reproduced: Python's transformers, or transformers.js in
    Node.js."""
    provider: Annotated[
        str, Option(panel=MODEL, commands=(RUN, SERVE, IMAGE, VERIFY, SHOW, PULL), suggest=providers)
    ] = "auto"
    """Execution provider: auto, cpu, openvino, cuda, tensorrt, directml, coreml or an installed plugin. Plugins accept
    a device: NAME:cpu, NAME:gpu or NAME:npu."""
    intrinsics: Annotated[str | None, Option(panel=MODEL, commands=(RUN, SERVE, IMAGE), metavar="FILE|FX,FY,CX,CY")] = (
        None
    )
    """Camera intrinsics: fx,fy,cx,cy in pixels, or a file (ROS camera_info, OpenCV YAML or JSON, COLMAP cameras.txt,
    nerfstudio transforms.json)."""
    fov: Annotated[
        float | None, limits.FOV_DEGREES, Option(panel=MODEL, commands=(RUN, SERVE, IMAGE), metavar="DEGREES")
    ] = None
    """Horizontal field of view of the camera in degrees, instead of --intrinsics."""
    threads: Annotated[
        int | None,
        limits.SESSION_THREADS,
        Option(panel=MODEL, commands=(RUN, SERVE, IMAGE, BENCH), default="available CPU cores"),
    ] = None
    """CPU threads of the model; the numbers of decoder and colour threads are derived from it."""
    model_every: Annotated[int, limits.MODEL_EVERY, Option(panel=MODEL, commands=(RUN, SERVE))] = 1
    """Run the model on every Nth frame and propagate its depth to the others along the optical flow."""
    stabilize: Annotated[Literal["off", "on"], Option(panel=MODEL, commands=(RUN, SERVE))] = "off"
    """Reduce flicker of depth shapes: live from earlier frames, in files from earlier and later frames."""
    style: Annotated[
        str, Option(panel=COLOR, commands=(RUN, RESTYLE, SERVE, IMAGE), short="-s", metavar="NAME", suggest=_palettes)
    ] = "inferno"
    """Palette ("streamdepth styles" lists them), or a .json or .yaml file of colour stops."""
    alpha: Annotated[
        Alpha,
        Option(
            panel=COLOR,
            commands=(RUN, RESTYLE, SERVE, IMAGE),
            short="-a",
            metavar="A|NEAR,FAR",
            default="1, in overlays 0.6",
        ),
    ] = None
    """Opacity of the depth in 0..1: one value, or NEAR,FAR for a ramp from the nearest to the farthest point."""
    reverse: Annotated[bool, Option(panel=COLOR, commands=(RUN, RESTYLE, SERVE, IMAGE))] = False
    """Map far instead of near to the high end of the palette."""
    view: Annotated[
        View | None,
        Option(panel=COLOR, commands=(RUN, RESTYLE, SERVE), default="depth; overlay with --alpha; side in serve"),
    ] = None
    """Layout: depth only, depth over the frame, depth beside the frame, or depth below the frame."""
    range: Annotated[
        DepthRange | None,
        Option(
            panel=COLOR,
            commands=(RUN, RESTYLE, SERVE),
            metavar="shot|ema|frame|fixed:LO,HI",
            default="shot for files, ema for live sources",
        ),
    ] = None
    """Depth range mapped to the palette: one per shot (files only), smoothed over time (ema), one per frame, or
    fixed:LO,HI in the model's unit."""
    cameras: Annotated[ExistingFile | None, Option(panel=INPUT, commands=(RUN, SERVE), metavar="FILE")] = None
    """YAML file of named cameras: source and options of each, and defaults for all."""
    max_staleness: Annotated[
        float | None,
        limits.STALENESS_SECONDS,
        Option(
            panel=INPUT, commands=(RUN, SERVE), metavar="SECONDS", default="one frame interval of the fastest camera"
        ),
    ] = None
    """Maximum age of a live frame while its batch waits for frames of other cameras."""
    camera_mode: Annotated[
        CameraMode | None, Option(panel=INPUT, commands=(RUN, SERVE), metavar="WxH[@FPS]", default="the camera's")
    ] = None
    """Size and frame rate requested from a camera, e.g. 1280x720@30."""
    timeout: Annotated[float, limits.TIMEOUT_SECONDS, Option(panel=INPUT, commands=(RUN, SERVE), needs="network")] = 3.0
    """Time without data after which a network connection counts as lost; at least 10 s for files on a server."""
    retries: Annotated[
        int | None, limits.RETRIES, Option(panel=INPUT, commands=(RUN, SERVE), default="unlimited", needs="network")
    ] = None
    """Attempts to reconnect before the run fails."""
    transport: Annotated[Literal["tcp", "udp", "auto"], Option(panel=INPUT, commands=(RUN, SERVE), needs="rtsp")] = (
        "tcp"
    )
    """Transport of RTSP sources; auto uses udp where the server does not offer tcp."""
    tls_ca: Annotated[
        TlsCa | None, Option(panel=INPUT, commands=(RUN, SERVE), metavar="FILE|none", default="the system's")
    ] = None
    """PEM file of the certificate authorities to trust for rtsps, rtmps and https (Windows: for outputs only); none
    disables verification."""
    latency: Annotated[Literal["low", "normal"], Option(panel=INPUT, commands=(RUN, SERVE), needs="network")] = "low"
    """Latency of network streams; normal adds up to 0.5 s and improves the image quality."""
    hwaccel: Annotated[HwAccel, Option(panel=ENCODING, commands=(RUN, SERVE))] = HwAccel.NONE
    """Hardware for decoding, and for encoding video files."""
    token_file: Annotated[
        ExistingFile | None,
        Option(panel=SERVER, commands=(RUN, SERVE), metavar="FILE", default="generated when serving beyond localhost"),
    ] = None
    """File whose first line is the access token of the page. Alternative: the environment variable
    STREAMDEPTH_WEB_TOKEN."""
    overwrite: Annotated[bool, Option(commands=(RUN, RESTYLE, IMAGE, STYLES), short="-y")] = False
    """Replace existing outputs; in a folder, files with the same names."""
    as_json: Annotated[bool, Option(commands=(BENCH, VERIFY, SHOW, DOCTOR), flag="--json", file=False)] = False
    """Print JSON."""
    quiet: Annotated[bool, Option(commands=(RUN, RESTYLE, SERVE, IMAGE, BENCH, BUILD, PULL), short="-q")] = False
    """Show no progress and no notes."""

    @property
    def rules(self) -> dict[str, Any] | None:
        """Changes to the model's preprocessing, None if there are none."""
        return NORMALIZATIONS[self.normalize] if self.normalize else None

    @property
    def look(self) -> Look:
        """Appearance. Without a view, an alpha selects the overlay.

        Raises:
            UsageError: an unknown palette, or a file of stops that cannot be read.
        """
        from streamdepth.colorize.palettes import checked_style, load_stops

        stops = self.style.lower().endswith((".json", ".yaml", ".yml"))
        return Look(
            style=load_stops(self.style) if stops else checked_style(self.style),
            alpha=self.alpha,
            reverse=self.reverse,
            view=self.view or (View.OVERLAY if self.alpha is not None else View.DEPTH),
        )

    def model_options(self, **more: Unpack[ModelOptions]) -> ModelOptions:
        """Keywords of :class:`~streamdepth.inference.model.DepthModel`, and ``more`` of them."""
        return {
            "dtype": self.dtype,
            "revision": self.revision,
            "size": self.size,
            "sense": self.sense,
            "preprocessing": self.rules,
            "input_name": self.input_name,
            "output_name": self.output_name,
            "match": self.match,
            "provider": self.provider,
            "threads": self.threads,
            "intrinsics": self.intrinsics,
            "fov_degrees": self.fov,
            **more,
        }

    def source_options(self, threads: int, on_status: Callable[[str], None]) -> SourceOptions:
        """Keywords of :func:`~streamdepth.sources.select.source_for`.

        Args:
            threads: of the decoder.
            on_status: called with a line of text when the connection of a source is lost or restored.
        """
        size, _, rate = (self.camera_mode or "").partition("@")
        width, _, height = size.partition("x")
        return {
            "camera_size": (int(width), int(height)) if self.camera_mode else None,
            "camera_rate": Fraction(rate) if rate else None,
            "threads": threads,
            "on_status": on_status,
            "hwaccel": self.hwaccel,
            "timeout_seconds": self.timeout,
            "retries": self.retries,
            "transport": self.transport,
            "tls_ca": self.tls_ca,
            "low_latency": self.latency == "low",
        }


class ServeConfig(Settings):
    """Options of ``streamdepth serve``."""

    source: Annotated[str | None, Option(metavar="[SOURCE]", argument=True)] = None
    """Live source of the page: a camera (0), rtsp://, a file (played in a loop), or test:. Without a source, the page
    accepts only images and uploaded files."""
    listen: Annotated[str, Option(panel=SERVER, metavar="URL")] = "http://127.0.0.1:8080"
    """Address of the page. An access token is required beyond localhost."""
    batch: Annotated[int, limits.BATCH, Option(panel=MODEL)] = 1
    """Frames of different cameras per model run."""
    add_cameras: Annotated[Texts, Option(panel=SERVER, metavar="HOST", default="none")] = ()
    """Host or address range (192.168.1.0/24) of cameras that may be added over HTTP, or test:. Repeatable."""
    max_upload: Annotated[int, limits.UPLOAD_MIB, Option(panel=SERVER)] = 512
    """Maximum size of an uploaded video."""


class ImageConfig(Settings):
    """Options of ``streamdepth image``."""

    inputs: Annotated[Texts, Option(metavar="INPUT...", argument=True)]
    """Images, folders of images, globs, or - for one image on standard input."""
    output: Annotated[Texts, Option(panel=OUTPUT, short="-o", metavar="OUT")] = ()
    """Output, by suffix: .png, .webp or .jpg for an image, .npy for float32 depth, .json for data and image. folder/
    for several inputs. Repeatable; {name} is replaced by the name of each input."""
    print_json: Annotated[bool, Option(panel=OUTPUT, flag="--json")] = False
    """Print one line of JSON per input: {data, image, width, height}."""
    fast: Annotated[bool, Option(panel=MODEL)] = False
    """Preprocess as for video: faster, but not exactly as transformers does."""


class BenchConfig(Settings):
    """Options of ``streamdepth bench``."""

    source: Annotated[str | None, Option(metavar="[SOURCE]", argument=True, default="a synthetic one of 1280x720")] = (
        None
    )
    """Clip to measure with."""
    providers: Annotated[
        Texts,
        Option(panel=MODEL, flag="--provider", metavar="NAME", default="all that run here", suggest=providers),
    ] = ()
    """Execution provider to measure. Repeatable."""
    dtypes: Annotated[Texts, Option(panel=MODEL, flag="--dtype", choices=DTYPES)] = ("auto",)
    """Numeric type of the model file to measure. Repeatable."""
    sizes: Annotated[Texts, Option(panel=MODEL, flag="--size", metavar="N|WxH", default="the model's")] = ()
    """Input size of the network to measure. Repeatable."""
    batches: Annotated[tuple[int, ...], limits.BATCH, Option(panel=MODEL, flag="--batch")] = (1, 2, 4)
    """Frames per model run to measure. Repeatable."""
    max_frames: Annotated[int, limits.MAX_FRAMES, Option(panel=INPUT)] = 150
    """Read N frames of the clip."""
    seconds: Annotated[float, limits.BENCH_SECONDS, Option(panel=INPUT)] = 1.0
    """Time to measure each setting for."""
    compare: Annotated[Path | None, Option(panel=OUTPUT, metavar="FILE")] = None
    """Compare with a report written with --json."""


class VerifyConfig(Settings):
    """Options of ``streamdepth verify``."""

    checked: Annotated[str, Option(metavar="MODEL", argument=True)]
    """Model to check: built-in, path or Hub name."""
    images: Annotated[Texts, Option(metavar="[IMAGE]...", argument=True, default="built-in ones")] = ()
    """Images to compare on."""
    reference: Annotated[
        str | None, Option(panel=MODEL, metavar="MODEL", default="the exact path of the same model")
    ] = None
    """Model to compare with."""
    reference_dtype: Annotated[str | None, Option(panel=MODEL, choices=DTYPES, default="auto")] = None
    """Numeric type of the reference."""


class BuildConfig(Settings):
    """Options of ``streamdepth build``."""

    built: Annotated[str, Option(metavar="[MODEL]", argument=True)] = "built-in"
    """Model to build for: built-in, path or Hub name."""
    target: Annotated[Literal["tensorrt", "cuda"], Option(panel=MODEL, flag="--provider")] = "tensorrt"
    """Execution provider to build for."""
    image_size: Annotated[Texts, Option(panel=INPUT, metavar="WxH")] = ("1920x1080",)
    """Size of the frames to expect. Repeatable."""
    batch: Annotated[int, limits.BATCH, Option(panel=MODEL)] = 1
    """Maximum number of frames per model run."""


class ModelConfig(Settings):
    """Options of ``streamdepth models show`` and ``pull``."""

    name: Annotated[str, Option(metavar="NAME", argument=True)]
    """Model: built-in, path or Hub name."""


class PullConfig(ModelConfig):
    """Options of ``streamdepth models pull``."""

    force: Annotated[bool, Option()] = False
    """Download files again even if they are intact."""


class StylesConfig(Settings):
    """Options of ``streamdepth styles``."""

    everything: Annotated[bool, Option(flag="--all")] = False
    """List the palettes of the cmap catalogue too."""
    preview: Annotated[Path | None, Option(metavar="FILE")] = None
    """Write a PNG that shows every palette on a depth image."""


class RestyleConfig(Settings):
    """Options of ``streamdepth restyle``."""

    depth: Annotated[Path, Option(metavar="DEPTH", argument=True)]
    """Depth written by run --data: .mkv or a folder."""
    clip: Annotated[Path | None, Option(metavar="[CLIP]", argument=True)] = None
    """Clip that the depth was computed from; needed for views that show its frames, and for its sound."""
    output: Annotated[Texts, Option(panel=OUTPUT, short="-o", metavar="OUT")] = ()
    """Video file, or folder/ of images. Repeatable."""
