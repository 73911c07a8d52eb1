"""Sessions: a model loaded on the requested provider, or on the first one that ``auto`` accepts.

A provider requested by name runs the model, or the session is refused with the reason. Only ``auto`` falls back, and
its note says from what and why.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import ModelError, ProviderError, StreamDepthError
from streamdepth.core.host import CACHE_HINT, cache_root, cores, plan_threads, writable
from streamdepth.inference import agreement, fused, nvidia, openvino_runtime, providers
from streamdepth.inference.ort import RECORD, assignment_of, first_line, load_error, session_options
from streamdepth.inference.providers import provider_named
from streamdepth.models.selection import AUTO, CPU, CUDA, Provider

if TYPE_CHECKING:
    from streamdepth.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session. ``note`` says what ``auto`` fell back from, or what the provider left to the CPU; or empty."""

    session: Any
    provider: str
    note: str = ""
    device: str = ""
    """Device that inputs and outputs may stay on, by ONNX Runtime's name; empty = host memory."""
    graph: bool = False
    """Runs are recorded as CUDA graphs."""


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
        batch: the most images a run will take; TensorRT builds its engine for it.
        graph: record runs as CUDA graphs where that is possible; where it is not, the note says why.
    Raises:
        ProviderError: no such provider, or it cannot run here; says why and what to do.
        ModelError: the model cannot be loaded.
    """
    if provider == AUTO:
        return _open_auto(spec, threads, batch, graph=graph)
    chosen = provider_named(provider)
    if chosen.name == "tensorrt" and agreement.may_halve(spec):
        return _open_halved(spec, chosen, threads, batch, graph=graph)
    return replace(_open(spec, chosen, threads, batch, graph=graph), provider=provider)


def _open_auto(spec: ModelSpec, threads: int | None, batch: int, *, graph: bool) -> OpenSession:
    missed: list[str] = []
    for name in providers.AUTO_ORDER[:-1]:
        candidate = provider_named(name)
        if not providers.to_be_tried(candidate):
            continue
        try:
            return _tried(spec, candidate, threads, batch, graph=graph)
        except ProviderError as exc:
            missed.append(exc.message.replace("; ", ", "))
    note = f"running on the CPU; {'; '.join(missed)}" if missed else ""
    return replace(_open(spec, CPU, threads), note=note)


def _tried(spec: ModelSpec, provider: Provider, threads: int | None, batch: int, *, graph: bool) -> OpenSession:
    """A session for ``auto``. A provider that may compute in a narrower type has to agree with the CPU.

    Raises:
        ProviderError: the provider cannot run the model, or its depth differs from the CPU's.
    """
    if not providers.may_narrow(provider.name):
        return _open(spec, provider, threads, batch, graph=graph)
    key = agreement.processor_key(spec, provider)
    wrong = agreement.cached(key)
    if not wrong:
        opened = _open(spec, provider, threads, batch, graph=graph)
        if wrong is None:
            wrong = agreement.disagreement(spec, opened.session, _open(spec, CPU, threads).session)
            agreement.store(key, wrong)
        if not wrong:
            return replace(opened, note="")
    raise ProviderError(f"provider {provider.name} {wrong}")


def _open_halved(spec: ModelSpec, provider: Provider, threads: int | None, batch: int, *, graph: bool) -> OpenSession:
    """TensorRT in half precision if its depth agrees with the CPU's, else in float32 with a note."""

    def compare() -> str:
        halved = _open(spec, provider, threads, batch, half=True)  # built now, later read from the cache
        return agreement.disagreement(spec, halved.session, _open(spec, CPU, threads).session)

    wrong = agreement.gpu_disagreement(spec, provider.name, compare)
    opened = _open(spec, provider, threads, batch, graph=graph, half=not wrong)
    if not wrong:
        return opened
    note = f"{spec.name}: computed in fp32, since fp16 {wrong}"
    return replace(opened, note="; ".join(text for text in (note, opened.note) if text))


def _open(
    spec: ModelSpec,
    provider: Provider,
    threads: int | None,
    batch: int = 1,
    *,
    graph: bool = False,
    half: bool = False,
) -> OpenSession:
    """A session. Its note names heavy nodes left to the CPU, and what prevents a CUDA graph.

    Args:
        half: TensorRT may compute a float32 graph in half precision.
    Raises:
        ProviderError: the provider cannot run here, or leaves all heavy nodes to the CPU.
        ModelError: the model cannot be loaded.
    """
    import onnxruntime as ort

    providers.check_runs(provider)
    if provider.name != CPU.name:
        spec = fused.with_regular_files(spec)
    if providers.on_own_runtime(provider):
        return OpenSession(_own_session(spec, provider, threads), provider.name)
    options = session_options(threads)
    beside = fused.weights_folder(spec)
    if beside:
        options.add_session_config_entry(fused.EXTERNAL_FOLDER, beside)
    plugin = providers.plugin_of(provider) if provider.plugin else None
    requested: list[Any] = []
    ort_name = provider.ort_name
    if plugin is not None:
        device = providers.device_of(providers.plugin_devices(plugin), provider)
        ort_name = str(device.ep_name)
        options.add_provider_for_devices([device], _plugin_options(provider, threads))
    else:
        requested = _with_options(spec, provider, batch, half=half)
    if provider.name != CPU.name:
        options.add_session_config_entry(*RECORD)
        if plugin is None:
            requested.append(CPU.ort_name)
    # ONNX Runtime looks for external data beside a path; it uses the configured folder only with bytes
    model = spec.path.read_bytes() if beside else str(spec.path)
    try:
        session = ort.InferenceSession(model, sess_options=options, providers=requested or None)
    except Exception as exc:
        raise _refused(exc, spec, provider) from exc
    running = session.get_providers()
    if ort_name not in running:
        raise ProviderError(
            f"provider {provider.name}: onnxruntime could not start it and fell back to "
            f"{', '.join(running)}; check driver and libraries, or use --provider cpu"
        )
    note = _left_to_cpu(session, ort_name, spec, provider) if provider.name != CPU.name else ""
    opened = OpenSession(session, provider.name, note, "cuda" if provider.nvidia else "")
    if not (graph and provider.nvidia):
        return opened
    reason = nvidia.graph_obstacle(spec, assignment_of(session, ort_name))
    if not reason:
        # whether a graph can be recorded is known from a session only, and a session takes it as an option
        recorded = _with_options(spec, provider, batch, graph=True, half=half)
        try:
            session = ort.InferenceSession(model, sess_options=options, providers=[*recorded, CPU.ort_name])
            return replace(opened, session=session, graph=True)
        except Exception as exc:  # control flow in the graph is refused here
            reason = first_line(exc)
    return replace(opened, note="; ".join(text for text in (note, f"no CUDA graph: {reason}") if text))


def _plugin_options(provider: Provider, threads: int | None) -> dict[str, str]:
    """Options of a plugin. OpenVINO on the CPU gets the threads of a run and the number of concurrent runs.

    By default it has one run at a time, on all cores, with threads bound to their cores. These threads then wait for
    each other while decoder and encoder use the cores: beside other programs, a run of the built-in model takes 14.7 ms
    of CPU time on two cores, and 7.7 ms with two runs of one thread each.
    """
    if not provider.runtime or provider.device != "cpu":
        return {}
    each, streams = _threads_and_streams(threads)
    return {"load_config": json.dumps({"CPU": openvino_runtime.cpu_options(each, streams)})}


def _threads_and_streams(threads: int | None) -> tuple[int, int]:
    planned = plan_threads(cores()).session
    each = threads or planned
    return each, max(1, planned // each)


def _own_session(spec: ModelSpec, provider: Provider, threads: int | None) -> openvino_runtime.RuntimeSession:
    each, streams = _threads_and_streams(threads)
    try:
        return openvino_runtime.RuntimeSession(
            spec.path, threads=each, streams=streams, cache=cache_root() / provider.name
        )
    except Exception as exc:  # the C++ library has one class for nearly all errors
        raise _refused(exc, spec, provider) from exc


def _with_options(
    spec: ModelSpec, provider: Provider, batch: int, *, graph: bool = False, half: bool = False
) -> list[Any]:
    """The providers of a session in order, with their options; CUDA after TensorRT, for nodes that it does not take."""
    if provider is CUDA:
        return [(CUDA.ort_name, nvidia.cuda_options(graph=graph))]
    if provider.name != "tensorrt":
        return [provider.ort_name]
    key = nvidia.engine_key(spec, batch=batch, fp16=half, gpu=nvidia.gpu_name())
    folder = nvidia.engine_folder(key)
    if not writable(folder):
        raise ProviderError(f"provider tensorrt: engines cannot be stored in {folder}; {CACHE_HINT}")
    engine = (provider.ort_name, nvidia.tensorrt_options(key, folder, graph=graph))
    return [engine, (CUDA.ort_name, nvidia.cuda_options())]


def _left_to_cpu(session: Any, ort_name: str, spec: ModelSpec, provider: Provider) -> str:
    nodes = assignment_of(session, ort_name)
    if nodes is None:
        return ""
    if nodes.heavy_left and not nodes.heavy_taken:
        raise ProviderError(
            f"provider {provider.name}: takes none of the heavy nodes of {spec.name} ({spec.dtype}); try another "
            "--dtype, or use --provider cpu"
        )
    return nodes.report(provider.name)


def _refused(exc: Exception, spec: ModelSpec, provider: Provider) -> StreamDepthError:
    if provider.name != CPU.name:
        # only the CPU provider's refusal is the model's: others have limits of their own
        return ProviderError(f"provider {provider.name}: cannot run {spec.name}: {first_line(exc)}; use --provider cpu")
    known = load_error(exc, spec)
    if known is not None:
        return known
    return ModelError(f"{spec.name}: cannot be loaded: {first_line(exc)}; export it again")
