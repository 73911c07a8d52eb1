"""Selection of a model: what its name means, its dtypes, the execution providers, and the file to use.

Order of dtypes, from best to worst: on the CPU fp32 first, with bnb4, q4 and q8 within a few per cent of it, of which
q8 is the most accurate; fp16 is emulated. On CUDA and DirectML half precision is native, and 8-bit matrices have no
kernels. TensorRT, Core ML and OpenVINO choose their precision from the fp32 graph. Measurements of the CPU's order (two
x86-64 cores, ONNX Runtime 1.31, Depth Anything V2 small at 518x518): fp32 548 ms, q8 585 to 623, int8 913 to 991; at
252x252 fp32 132 to 143, q8 235. On a CPU with VNNI 8-bit matrices take 0.42 (int8) to 0.78 (q8) of the time of float32,
but 3x3 convolutions 5.6 (int8) and 2.0 (q8) times, and every depth network ends in convolutions.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from streamdepth.core.errors import ModelError, ModelNotFoundError, UsageError, nearest, redact
from streamdepth.models.known import known_models

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from streamdepth.models.config import JsConfig
    from streamdepth.models.spec import Origin

AUTO: Final = "auto"

SUFFIXES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fp32": "",
        "fp16": "_fp16",
        "int8": "_int8",
        "uint8": "_uint8",
        "q8": "_quantized",
        "q4": "_q4",
        "q4f16": "_q4f16",
        "bnb4": "_bnb4",
    }
)
"""dtype -> suffix of the file name between stem and ``.onnx``, as in transformers.js repositories."""


def split_dtype(stem: str) -> tuple[str, str]:
    """``"model_quantized"`` -> ``("model", "q8")``; a stem without a known suffix is ``"fp32"``."""
    for dtype, suffix in SUFFIXES.items():
        if suffix and stem.endswith(suffix) and stem != suffix:
            return stem.removesuffix(suffix), dtype
    return stem, "fp32"


def in_order(dtypes: Iterable[str]) -> list[str]:
    """The given dtypes in the order of :data:`SUFFIXES`."""
    known = list(SUFFIXES)
    return sorted(dtypes, key=known.index)


_CPU = ("fp32", "q8", "bnb4", "q4", "fp16", "q4f16", "uint8", "int8")
_GPU = ("fp16", "fp32", "q4f16", "q4", "bnb4", "q8", "uint8", "int8")
_COMPILER = ("fp32", "fp16", "q8", "uint8", "int8", "q4", "q4f16", "bnb4")


@dataclass(frozen=True, slots=True)
class Provider:
    """One execution provider.

    Attributes:
        name: the name users type.
        ort_name: its name in ONNX Runtime.
        aliases: other accepted names.
        dtypes: dtypes of a model's files from best to worst.
        auto: rank in the order that ``auto`` tries, 0 = not tried.
        package: package to install, empty where every build has the provider.
        extra: extra of streamdepth that brings the package or its libraries, empty where there is none.
        library: shared library in ONNX Runtime, without prefix and suffix; empty = inside the main one.
        platform: the only ``sys.platform`` it exists on, empty = any.
        nvidia: needs an NVIDIA driver; inputs and outputs stay on the GPU.
        plugin: module of the package that registers it with a running ONNX Runtime, empty where there is none.
        runtime: package of the provider's own runtime, used on the CPU where ONNX Runtime cannot use the provider.
        device: kind of device it runs on (``cpu``, ``gpu``, ``npu``), for plugins; empty = the first one offered.
        note: its restriction, for messages.
        gain: what its own runtime gains over the CPU provider, for messages.
    """

    name: str
    ort_name: str
    aliases: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = _CPU
    auto: int = 0
    package: str = ""
    extra: str = ""
    library: str = ""
    platform: str = ""
    nvidia: bool = False
    plugin: str = ""
    runtime: str = ""
    device: str = ""
    note: str = ""
    gain: str = ""


CPU: Final = Provider("cpu", "CPUExecutionProvider", auto=4)
CUDA: Final = Provider(
    "cuda",
    "CUDAExecutionProvider",
    dtypes=_GPU,
    auto=1,
    package="onnxruntime-gpu",
    extra="cuda",
    library="onnxruntime_providers_cuda",
    nvidia=True,
)
PROVIDERS: Final = (
    CPU,
    CUDA,
    Provider(
        "tensorrt",
        "TensorrtExecutionProvider",
        aliases=("trt",),
        dtypes=_COMPILER,
        package="onnxruntime-gpu",
        library="onnxruntime_providers_tensorrt",
        nvidia=True,
    ),
    Provider(
        "openvino",
        "OpenVINOExecutionProvider",
        dtypes=_COMPILER,
        auto=3,
        package="onnxruntime-ep-openvino",
        extra="openvino",
        library="onnxruntime_providers_openvino",
        plugin="onnxruntime_ep_openvino",
        runtime="openvino",
        device="cpu",
        note="OpenVINO's plugin supports Intel hardware only",
        gain="takes 25 % less CPU time, with bf16 60 %",
    ),
    Provider(
        "directml",
        "DmlExecutionProvider",
        aliases=("dml",),
        dtypes=_GPU,
        auto=2,
        package="onnxruntime-directml",
        platform="win32",
    ),
    Provider("coreml", "CoreMLExecutionProvider", dtypes=_COMPILER, auto=2, package="onnxruntime", platform="darwin"),
)


def find_provider(name: str) -> Provider | None:
    """The row of a name or alias, with or without a device (``openvino:gpu``); None where there is none."""
    short = name.lower().partition(":")[0]
    return next((one for one in PROVIDERS if short == one.name or short in one.aliases), None)


def dtype_order(provider: str) -> tuple[str, ...]:
    """dtypes from best to worst for a provider; one without a row gets the CPU's order."""
    return (find_provider(provider) or CPU).dtypes


BUILT_IN = "built-in"
HUB_SCHEME = "hf://"
_BUILT_IN_NAMES = frozenset({BUILT_IN, "builtin", "built_in"})
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHOWN = 200
# a graph is in the folder, in onnx/, or in one folder per variant
_FOLDER_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Target:
    """The meaning of a model's name, before anything is opened.

    Attributes:
        kind: where the model is.
        name: as the user wrote it, redacted.
        path: of a file or folder.
        repository: ``org/name`` on the Hub.
        file: one file of the repository, empty = chosen by dtype.
        note: for a name that could also mean something else.
    """

    kind: Literal["built-in", "file", "folder", "hub"]
    name: str
    path: Path = field(default_factory=Path)
    repository: str = ""
    file: str = ""
    note: str = ""


def target_of(model: str | Path, base_url: str = "https://huggingface.co") -> Target:
    """Find out what a name means.

    ``built-in``; then an existing file, or a folder with a model in it; then ``org/name`` on the Hub.
    ``hf://org/name[/file.onnx]`` and web addresses of the Hub always mean the Hub, ``./org/name`` and absolute paths
    always mean the disk.

    Raises:
        UsageError: empty, or an address of something else.
        ModelNotFoundError: neither a path that exists nor a Hub name.
    """
    if not isinstance(model, str | Path):
        raise UsageError(f"model is {BUILT_IN}, a path or a Hub name (org/name), not {model!r}")
    text = os.fspath(model).strip() if isinstance(model, str) else os.fspath(model)
    name = redact(text)
    if not text:
        raise UsageError(f"model: empty; give {BUILT_IN}, a path or a Hub name (org/name)")
    if isinstance(model, str):
        if text.lower().replace(" ", "-") in _BUILT_IN_NAMES:
            return Target("built-in", BUILT_IN)
        if "://" in text:
            return _remote(text, name, base_url)
    path = Path(text).expanduser()
    shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
    hub_like = isinstance(model, str) and bool(_HUB_NAME.fullmatch(text)) and not text.lower().endswith(".onnx")
    try:
        if path.is_file():
            return Target("file", name, path)
        if path.is_dir() and (not hub_like or any(onnx_files(path))):
            note = f"{name}: the local folder is used; for the Hub's model give {HUB_SCHEME}{text}" if hub_like else ""
            return Target("folder", name, path, note=note)
    except OSError as exc:
        raise ModelError(f"{shown}: cannot be read ({exc.strerror}); check the path") from exc
    if hub_like:
        return Target("hub", name, repository=text)
    raise ModelNotFoundError(f"{shown}: no such file or folder{_hint(text[:_SHOWN])}")


def _remote(text: str, name: str, base_url: str) -> Target:
    if text.startswith(HUB_SCHEME):
        rest = text.removeprefix(HUB_SCHEME)
    else:
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or parts.hostname not in (
            "huggingface.co",
            urlsplit(base_url).hostname,
        ):
            raise UsageError(f"model {name}: not a Hub address; download the file and give its path")
        rest = parts.path
    segments = rest.strip("/").split("/")
    # the address of a page continues with /tree/main, /blob/main/onnx/model.onnx and similar
    repository, rest_segments = "/".join(segments[:2]), segments[2:]
    if rest_segments[:1] in (["tree"], ["blob"], ["resolve"]):
        rest_segments = rest_segments[2:]
    file = "/".join(rest_segments)
    if not _HUB_NAME.fullmatch(repository) or (file and not file.lower().endswith(".onnx")):
        raise UsageError(f"model {name}: give {HUB_SCHEME}org/name or {HUB_SCHEME}org/name/path/file.onnx")
    return Target("hub", name, repository=repository, file=file)


def _hint(text: str) -> str:
    by_last = {m.name.split("/")[1].lower(): m.name for m in known_models()}
    repository, mark, _ = text.partition("@")
    if mark and _HUB_NAME.fullmatch(repository):
        return f"; give the revision of {repository} with --revision"
    if text.lower() in by_last:
        return f" (did you mean {by_last[text.lower()]!r}?)"
    near = nearest(text.lower(), by_last)
    for last, name in by_last.items():
        near = near.replace(f"'{last}'", f"'{name}'")
    return near or f"; give {BUILT_IN}, an existing path, or a Hub name (org/name)"


def onnx_files(folder: Path) -> Iterator[str]:
    """Paths of the ONNX files in a folder, relative to it."""
    base = len(folder.parts)
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = [] if len(here.parts) - base >= _FOLDER_DEPTH else sorted(f for f in folders if f[0] != ".")
        yield from ((here / n).relative_to(folder).as_posix() for n in sorted(names) if n.lower().endswith(".onnx"))


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen file, its dtype, and the origin of the choice."""

    path: str
    dtype: str
    origin: Origin


def check_dtype(dtype: str) -> str:
    """Check the name of a dtype and return it.

    Raises:
        UsageError: an unknown name.
    """
    if dtype not in SUFFIXES and dtype != AUTO:
        raise UsageError(f"dtype {dtype!r}: choose one of {AUTO}, {', '.join(SUFFIXES)}")
    return dtype


def variants(files: Iterable[str], js: JsConfig, where: str, prefix: str = "") -> Mapping[str, str]:
    """dtype -> path of each variant of the model among ``files`` (relative, with ``/``).

    Looks in the folder of the transformers.js layout first, then at the root, then for a single model anywhere.

    Args:
        where: name of the folder or repository in messages.
        prefix: prefix of a file's path in messages; empty = ``where``.
    Raises:
        ModelNotFoundError: no ONNX file.
        ModelError: several models.
    """
    onnx = sorted(f for f in files if f.lower().endswith(".onnx"))
    if not onnx:
        raise ModelNotFoundError(f"{where}: has no ONNX files; export the model to ONNX or choose another repository")
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for file in onnx:
        path = PurePosixPath(file)
        stem, dtype = split_dtype(path.stem)
        groups.setdefault((_folder(path), stem), {})[dtype] = file
    subfolder = js.subfolder.strip("/")
    for key in ((subfolder, js.model_file_name), ("", js.model_file_name), (subfolder, "model"), ("", "model")):
        if key in groups:
            return groups[key]
    if len(groups) == 1:
        return next(iter(groups.values()))
    named = [group for (_, stem), group in groups.items() if stem == js.model_file_name]
    if len(named) == 1:
        return named[0]
    shown = ", ".join(onnx[:8]) + (f" and {len(onnx) - 8} more" if len(onnx) > 8 else "")
    raise ModelError(f"{where}: has several models ({shown}); name one file, as in {prefix or where}/{onnx[0]}")


def _folder(path: PurePosixPath) -> str:
    parent = str(path.parent)
    return "" if parent == "." else parent


def choose(found: Mapping[str, str], dtype: str, provider: str, js: JsConfig, where: str) -> Choice:
    """One of the variants: the requested dtype, or for ``auto`` the author's choice, else the provider's best.

    Raises:
        ModelNotFoundError: no file of the requested dtype; lists the others.
    """
    if dtype != AUTO:
        if dtype not in found:
            raise ModelNotFoundError(
                f"{where}: has no {dtype} file; it has {', '.join(in_order(found))}: choose one of these or {AUTO}"
            )
        return Choice(found[dtype], dtype, "user")
    if js.dtype in found:
        return Choice(found[js.dtype], js.dtype, "config")
    best = next(d for d in dtype_order(provider) if d in found)
    return Choice(found[best], best, "default")
