"""Sessions: a model loaded on the provider that was asked for, or on the first that ``auto`` finds good.

A provider asked for by name either runs the model or the session is refused with the reason; only ``auto`` falls back,
and its note says from what and why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import ModelError, ProviderError, StreamDepthError
from streamdepth.core.host import cache_root, cores
from streamdepth.core.threads import plan_threads
from streamdepth.inference import (
    agreement_cache,
    assignment,
    fused,
    nvidia,
    openvino_runtime,
    plugins,
    precision,
    providers,
    session_errors,
    session_options,
)
from streamdepth.inference.providers import AUTO, PROVIDERS, Provider, provider_named

if TYPE_CHECKING:
    from streamdepth.models.spec import ModelSpec


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
        ProviderError: no such provider, or it cannot run here; says why and what would help.
        ModelError: the model cannot be loaded.
    """
    if provider == AUTO:
        return _open_auto(spec, threads, batch, graph=graph)
    chosen = provider_named(provider)
    if chosen.name == "tensorrt" and precision.may_halve(spec):
        return _open_halved(spec, chosen, threads, batch, graph=graph)
    return replace(_open(spec, chosen, threads, batch, graph=graph), provider=provider)


def _open_auto(spec: ModelSpec, threads: int | None, batch: int, *, graph: bool) -> OpenSession:
    missed: list[str] = []
    for name in providers.AUTO_ORDER[:-1]:
        candidate = next(p for p in PROVIDERS if p.name == name)
        if not providers.to_be_tried(candidate):
            continue
        try:
            return _tried(spec, candidate, threads, batch, graph=graph)
        except ProviderError as exc:
            missed.append(exc.message.replace("; ", ", "))
    note = f"running on the CPU; {'; '.join(missed)}" if missed else ""
    return replace(_open(spec, PROVIDERS[0], threads), note=note)


def _tried(spec: ModelSpec, provider: Provider, threads: int | None, batch: int, *, graph: bool) -> OpenSession:
    """A session for ``auto``; one that may compute in a narrower type only where it says what the CPU says.

    Raises:
        ProviderError: the provider cannot run the model, or says something else.
    """
    if not provider.plugin:
        return _open(spec, provider, threads, batch, graph=graph)
    key = agreement_cache.on_processor(spec, provider)
    wrong = agreement_cache.known(key)
    if not wrong:
        opened = _open(spec, provider, threads, batch, graph=graph)
        if wrong is None:
            from streamdepth.inference.agreement import disagreement

            wrong = disagreement(spec, opened.session, _open(spec, PROVIDERS[0], threads).session)
            agreement_cache.keep(key, wrong)
        if not wrong:
            return replace(opened, note="")
    raise ProviderError(f"provider {provider.name} {wrong}")


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

    providers.check_runs(provider)
    if providers.on_own_runtime(provider):
        return OpenSession(_own_session(spec, provider, threads), provider.name)
    options = session_options.made(threads)
    beside = fused.weights_folder(spec)
    if beside:
        options.add_session_config_entry(fused.EXTERNAL_FOLDER, beside)
    plugin = providers.plugin_of(provider) if provider.plugin else None
    wanted: list[Any] = []
    ort_name = provider.ort_name
    if plugin is not None:
        device = providers.device_of(plugins.devices(plugin), provider)
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
    cache = cache_root() / provider.name
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
