"""What runs a model: ONNX Runtime's execution providers, asked for by short names.

A provider asked for by name either runs the model or the session is refused with the reason; only ``auto`` falls back,
and its note says from what and why.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamdepth.errors import ModelError, ProviderError, StreamDepthError, UsageError
from streamdepth.inference import (
    assignment,
    fused,
    nvidia,
    openvino_runtime,
    plugins,
    precision,
    session_errors,
    session_options,
)
from streamdepth.threads import cores, plan_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamdepth.models.spec import ModelSpec

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Provider:
    """One execution provider.

    Attributes:
        name: what users type.
        ort_name: what ONNX Runtime calls it.
        package: what to install to get it, empty where it comes with every build.
        library: shared library of ONNX Runtime that holds it, without prefix and suffix; empty = inside the main one.
        nvidia: needs an NVIDIA driver.
        plugin: module of the package that registers it with a running ONNX Runtime, empty where there is none.
        runtime: package of the provider's own runtime, which takes over on the CPU where ONNX Runtime cannot use the
            provider; empty where there is none.
        device: kind of device it runs on (``cpu``, ``gpu``, ``npu``), for plugins; empty = the first it offers.
    """

    name: str
    ort_name: str
    package: str = ""
    library: str = ""
    nvidia: bool = False
    plugin: str = ""
    device: str = ""
    runtime: str = ""


PROVIDERS: tuple[Provider, ...] = (
    Provider("cpu", "CPUExecutionProvider"),
    Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu", "onnxruntime_providers_cuda", nvidia=True),
    Provider("tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu", "onnxruntime_providers_tensorrt", nvidia=True),
    Provider(
        "openvino",
        "OpenVINOExecutionProvider",
        "onnxruntime-ep-openvino",
        "onnxruntime_providers_openvino",
        plugin="onnxruntime_ep_openvino",
        device="cpu",
        runtime=openvino_runtime.PACKAGE,
    ),
    Provider("directml", "DmlExecutionProvider", "onnxruntime-directml"),
    Provider("coreml", "CoreMLExecutionProvider", "onnxruntime"),
)
ON_DEVICE = ("cuda", "tensorrt")
"""Providers whose inputs and outputs stay on an NVIDIA GPU between host and model."""
_AUTO_ORDER = ("cuda", "directml", "openvino", "cpu")
_DEVICES = ("cpu", "gpu", "npu")


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A running session. ``note`` says what ``auto`` fell back from, or what the provider left to the CPU; or empty."""

    session: Any
    provider: str
    note: str = ""
    device: str = ""
    """Where inputs and outputs may stay between host and model, in ONNX Runtime's words; empty = host memory."""
    graph: bool = False
    """Runs are recorded as CUDA graphs."""


def provider_names() -> tuple[str, ...]:
    """Every name ``open_session`` takes, ``auto`` first, installed plugins last. A plugin takes ``NAME:DEVICE`` too."""
    return (AUTO, *(p.name for p in all_providers()))


def all_providers() -> tuple[Provider, ...]:
    """The known providers, and the installed plugins beside them."""
    known = {p.plugin for p in PROVIDERS}
    others = (p for p in plugins.installed() if p.module not in known)
    return (*PROVIDERS, *(Provider(p.name, "", p.package, plugin=p.module) for p in others))


def provider_named(name: str) -> Provider:
    """The provider of a name, ``openvino`` or ``openvino:gpu``.

    Raises:
        ProviderError: there is none, or it takes no device.
    """
    short, _, device = name.partition(":")
    chosen = next((p for p in all_providers() if p.name == short), None)
    if chosen is None:
        found = plugins.find(short)
        chosen = None if found is None else Provider(found.name, "", found.package, plugin=found.module)
    if chosen is None:
        raise UsageError(f"unknown provider {name!r}; choose one of {', '.join(provider_names())}")
    if device and (not chosen.plugin or device not in _DEVICES):
        raise ProviderError(f"provider {name!r}: a plugin's device is {', '.join(_DEVICES)}; use --provider {short}")
    return replace(chosen, device=device) if device else chosen


def open_session(
    spec: ModelSpec,
    provider: str = AUTO,
    threads: int | None = None,
    *,
    batch: int = 1,
    graph: bool = True,
) -> OpenSession:
    """Load a model.

    Args:
        threads: threads of one operator on the CPU; None = one for each core this process may use.
        batch: the most pictures a run will take; TensorRT builds its engine for it.
        graph: record runs as CUDA graphs where that is possible; where it is not, the note says why.
    Raises:
        ProviderError: no such provider, or it cannot run here; says why and what would help.
        ModelError: the model cannot be loaded.
    """
    if provider == AUTO:
        return _open_auto(spec, threads, batch, graph=graph)
    chosen = provider_named(provider)
    if chosen.name == "tensorrt" and precision.may_halve(spec):
        return _open_halved(spec, chosen, threads, batch, graph=graph)
    return replace(_open(spec, chosen, threads, batch, graph=graph), provider=provider)


def likely(provider: str = AUTO) -> str:
    """The provider that ``auto`` tries first here; any other name as it is. Loads nothing but the GPU's driver."""
    if provider != AUTO:
        return provider
    import onnxruntime as ort

    there = ort.get_available_providers()
    for name in _AUTO_ORDER:
        candidate = next(p for p in PROVIDERS if p.name == name)
        if candidate.plugin and _to_be_tried(candidate):
            if not why_not(candidate):
                return name
        elif candidate.ort_name in there and not (candidate.nvidia and nvidia.no_driver()):
            return name
    return "cpu"


def why_not(provider: Provider) -> str:
    """Why this provider cannot run on this machine, with the way out after a semicolon; empty where it can.

    Loads the provider's library as the session would, since ONNX Runtime lists providers it cannot load.
    """
    import onnxruntime as ort

    if _on_own_runtime(provider):
        return ""
    if provider.plugin and (provider.ort_name not in ort.get_available_providers() or _plugin(provider) is not None):
        return _why_not_plugin(provider)
    if provider.ort_name not in ort.get_available_providers():
        where = {"directml": "win32", "coreml": "darwin"}.get(provider.name)
        if where is not None and sys.platform != where:
            return f"exists only on {'Windows' if where == 'win32' else 'macOS'}; use --provider cpu"
        return (
            f"the installed onnxruntime was built without it; install the package {provider.package} in place of "
            "the one there, or use --provider cpu"
        )
    if provider.nvidia:
        reason = nvidia.no_driver()
        if reason:
            return f"{reason}; install an NVIDIA driver, or use --provider cpu"
        nvidia.preload()
    if provider.library:
        reason = _cannot_load(Path(ort.__file__).parent / "capi", provider.library)
        if reason:
            wanted = f"the libraries that onnxruntime {ort.__version__} needs"
            way = f"{nvidia.CUDA_EXTRA} brings {wanted}" if provider.name == "cuda" else f"install {wanted}"
            return f"{reason}; {way}, or use --provider cpu"
    return ""


def runs_on_cores(name: str) -> bool:
    """Whether runs of the provider of this name share the cores, so that two of one thread each may go side by side."""
    return name == "cpu" or any(one.name == name and _on_own_runtime(one) for one in PROVIDERS)


def _on_own_runtime(provider: Provider) -> bool:
    import onnxruntime as ort

    if not provider.runtime or provider.device not in ("", "cpu") or not openvino_runtime.installed():
        return False
    if provider.ort_name in ort.get_available_providers():
        return False
    plugin = _plugin(provider)
    try:
        return plugin is None or _device(plugins.devices(plugin), provider) is None
    except ProviderError:  # a plugin for another ONNX Runtime
        return True


def _plugin(provider: Provider) -> plugins.Plugin | None:
    return next((p for p in plugins.installed() if p.module == provider.plugin), None)


def _why_not_plugin(provider: Provider) -> str:
    plugin = _plugin(provider)
    if plugin is None:
        wanted = f"'streamdepth[{provider.name}]'" if provider.runtime else provider.package
        return f"the package {provider.package} is not installed; pip install {wanted}, or use --provider cpu"
    try:
        offered = plugins.devices(plugin)
    except ProviderError as exc:
        return exc.message.removeprefix(f"provider {plugin.name}: ")
    if _device(offered, provider) is None:
        kinds = ", ".join(sorted({plugins.device_kind(device) for device in offered}))
        what = f"{provider.device or 'device'} of this machine"
        return (
            f"{plugin.package} does not run on the {what}{f' but on its {kinds}' if kinds else ''} (OpenVINO's plugin "
            f"takes Intel hardware only); pip install {provider.runtime}, which runs on any, or use --provider cpu"
            if provider.name == "openvino"
            else f"{plugin.package} does not run on the {what}{f' but on its {kinds}' if kinds else ''}; "
            "use --provider cpu"
        )
    return ""


def _device(offered: Sequence[Any], provider: Provider) -> Any:
    """The device to use of those a plugin offers, None where the kind wanted is not among them."""
    fit = [device for device in offered if provider.device in ("", plugins.device_kind(device))]
    return fit[0] if fit else None


def _open_auto(spec: ModelSpec, threads: int | None, batch: int, *, graph: bool) -> OpenSession:
    missed: list[str] = []
    cpu = PROVIDERS[0]
    for name in _AUTO_ORDER[:-1]:
        candidate = next(p for p in PROVIDERS if p.name == name)
        if not _to_be_tried(candidate):
            continue
        try:
            opened = _open(spec, candidate, threads, batch, graph=graph)
        except ProviderError as exc:
            missed.append(exc.message.replace("; ", ", "))
            continue
        if not candidate.plugin:
            return opened
        from streamdepth.inference.agreement import disagreement

        reference = _open(spec, cpu, threads)
        wrong = disagreement(spec, opened.session, reference.session)
        if not wrong:
            return replace(opened, note="")
        missed.append(f"provider {name} {wrong}")
        return replace(reference, note=f"running on the CPU; {'; '.join(missed)}")
    note = f"running on the CPU; {'; '.join(missed)}" if missed else ""
    return replace(_open(spec, cpu, threads), note=note)


def _open_halved(spec: ModelSpec, provider: Provider, threads: int | None, batch: int, *, graph: bool) -> OpenSession:
    """TensorRT computing in half precision where it then says what the CPU says, else in float32 with a note."""
    from streamdepth.inference.agreement import disagreement

    def judge() -> str:
        halved = _open(spec, provider, threads, batch, half=True)  # built now, and read from the cache from here on
        return disagreement(spec, halved.session, _open(spec, PROVIDERS[0], threads).session)

    wrong = precision.verdict(spec, provider.name, judge)
    opened = _open(spec, provider, threads, batch, graph=graph, half=not wrong)
    if not wrong:
        return opened
    note = f"{spec.name}: computed in fp32, since fp16 {wrong}"
    return replace(opened, note="; ".join(text for text in (note, opened.note) if text))


def _to_be_tried(provider: Provider) -> bool:
    """False where the hardware or package is simply not there: the CPU is then the choice, not a fallback."""
    if provider.nvidia and nvidia.no_driver():
        return False
    import onnxruntime as ort

    return (
        provider.ort_name in ort.get_available_providers()
        or (bool(provider.plugin) and _plugin(provider) is not None)
        or _on_own_runtime(provider)
    )


def _open(
    spec: ModelSpec,
    provider: Provider,
    threads: int | None,
    batch: int = 1,
    *,
    graph: bool = False,
    half: bool = False,
) -> OpenSession:
    """A session; its note is about heavy nodes left to the CPU, and about what keeps a CUDA graph from being recorded.

    Args:
        half: TensorRT may compute a float32 graph in half precision.
    Raises:
        ProviderError: the provider cannot run here, or leaves all heavy nodes to the CPU.
        ModelError: the model is at fault.
    """
    import onnxruntime as ort

    reason = why_not(provider)
    if reason:
        raise ProviderError(f"provider {provider.name}: {reason}")
    if _on_own_runtime(provider):
        return OpenSession(_own_session(spec, provider, threads), provider.name)
    options = session_options.made(threads)
    beside = fused.weights_folder(spec)
    if beside:
        options.add_session_config_entry(fused.EXTERNAL_FOLDER, beside)
    plugin = _plugin(provider) if provider.plugin else None
    wanted: list[Any] = []
    ort_name = provider.ort_name
    if plugin is not None:
        device = _device(plugins.devices(plugin), provider)
        ort_name = str(device.ep_name)
        options.add_provider_for_devices([device], {})
    else:
        wanted = _with_options(spec, provider, batch, half=half)
    if provider.name != "cpu":
        options.add_session_config_entry(*assignment.RECORD)
        if plugin is None:
            wanted.append(PROVIDERS[0].ort_name)
    # A path, not bytes: external data is looked for beside it. With a folder of weights given, only bytes obey it.
    model = spec.path.read_bytes() if beside else str(spec.path)
    try:
        session = ort.InferenceSession(model, sess_options=options, providers=wanted or None)
    except Exception as exc:
        raise _refused(exc, spec, provider) from exc
    running = session.get_providers()
    if ort_name not in running:
        raise ProviderError(
            f"provider {provider.name}: onnxruntime could not start it and fell back to "
            f"{', '.join(running)}; check driver and libraries, or use --provider cpu"
        )
    note = _left_to_cpu(session, ort_name, spec, provider) if provider.name != "cpu" else ""
    opened = OpenSession(session, provider.name, note, "cuda" if provider.nvidia else "")
    if not (graph and provider.nvidia):
        return opened
    reason = nvidia.graph_obstacle(spec, assignment.of(session, ort_name))
    if not reason:
        # whether a graph is possible is known only of a session, and has to be said before there is one
        recorded = _with_options(spec, provider, batch, graph=True, half=half)
        try:
            session = ort.InferenceSession(model, sess_options=options, providers=[*recorded, PROVIDERS[0].ort_name])
            return replace(opened, session=session, graph=True)
        except Exception as exc:  # control flow in the graph is refused only here
            reason = session_errors.first_line(exc)
    return replace(opened, note="; ".join(text for text in (note, f"no CUDA graph: {reason}") if text))


def _own_session(spec: ModelSpec, provider: Provider, threads: int | None) -> openvino_runtime.RuntimeSession:
    planned = plan_threads(cores()).session
    each = threads or planned
    cache = nvidia.cache_root() / provider.name
    try:
        return openvino_runtime.RuntimeSession(spec.path, threads=each, streams=max(1, planned // each), cache=cache)
    except Exception as exc:  # its classes are those of the C++ library, one for nearly everything
        raise _refused(exc, spec, provider) from exc


def _with_options(
    spec: ModelSpec, provider: Provider, batch: int, *, graph: bool = False, half: bool = False
) -> list[Any]:
    """The providers of a session in order, with their options; CUDA behind TensorRT, for nodes it does not take."""
    cuda_name = next(p.ort_name for p in PROVIDERS if p.name == "cuda")
    if provider.name == "cuda":
        return [(cuda_name, nvidia.cuda_options(graph=graph))]
    if provider.name != "tensorrt":
        return [provider.ort_name]
    key = nvidia.engine_key(spec, batch=batch, fp16=half, gpu=nvidia.gpu_name())
    folder = nvidia.engine_folder(key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ProviderError(
            f"provider tensorrt: engines cannot be kept in {folder} ({exc.strerror}); point STREAMDEPTH_CACHE to a "
            "folder that can be written"
        ) from exc
    engine = (provider.ort_name, nvidia.tensorrt_options(key, folder, graph=graph))
    return [engine, (cuda_name, nvidia.cuda_options())]


def _left_to_cpu(session: Any, ort_name: str, spec: ModelSpec, provider: Provider) -> str:
    given = assignment.of(session, ort_name)
    if given is None:
        return ""
    if given.heavy_left and not given.heavy_taken:
        raise ProviderError(
            f"provider {provider.name}: takes none of the heavy nodes of {spec.name} ({spec.dtype}); try another "
            "--dtype, or use --provider cpu"
        )
    return given.report(provider.name)


def _refused(exc: Exception, spec: ModelSpec, provider: Provider) -> StreamDepthError:
    known = session_errors.load_error(exc, spec)
    if known is not None:
        return known
    if provider.name != "cpu":
        return ProviderError(
            f"provider {provider.name}: cannot run {spec.name}: {session_errors.first_line(exc)}; use --provider cpu"
        )
    return ModelError(f"{spec.name}: cannot be loaded: {session_errors.first_line(exc)}; export it again")


def _cannot_load(folder: Path, library: str) -> str:
    prefix, suffix = ("", ".dll") if sys.platform == "win32" else ("lib", ".so")
    path = folder / f"{prefix}{library}{suffix}"
    if not path.is_file():
        return f"{path.name} is missing from onnxruntime"
    try:
        if sys.platform != "win32":
            shared = folder / f"{prefix}onnxruntime_providers_shared{suffix}"
            ctypes.CDLL(str(shared), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(path))
    except OSError as exc:
        return f"{path.name} cannot be loaded ({session_errors.first_line(exc)})"
    return ""
