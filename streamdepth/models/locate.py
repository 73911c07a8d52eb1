"""Where a model is: in the package, in a file or folder, or on the Hub; and the configuration beside it."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from streamdepth.core.errors import ModelError, ModelNotFoundError, UsageError
from streamdepth.models.config import CONFIG_NAME, PREPROCESSOR_NAME, JsConfig, js_config, other_task, read_json
from streamdepth.models.graph import GraphInfo, check_external, read_graph
from streamdepth.models.hub import (
    HubAccess,
    Listing,
    cached_listing,
    fetch,
    list_repository,
    pull_hint,
    remember_revision,
)
from streamdepth.models.known import KnownModel, find_known
from streamdepth.models.selection import (
    AUTO,
    BUILT_IN,
    HUB_SCHEME,
    Choice,
    Target,
    choose,
    onnx_files,
    split_dtype,
    target_of,
    variants,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamdepth.models.hub import Progress
    from streamdepth.models.spec import Origin

_T = TypeVar("_T")

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Located:
    """A model's file and everything beside it. The ``where`` of a configuration names it in messages."""

    name: str
    source: Literal["built-in", "file", "hub"]
    path: Path
    graph: GraphInfo
    external_data: tuple[Path, ...]
    dtype: str
    dtype_origin: Origin
    revision: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    config_where: str = CONFIG_NAME
    preprocessor: Mapping[str, Any] | None = None
    preprocessor_where: str = PREPROCESSOR_NAME
    builtin: Mapping[str, Any] = field(default_factory=dict)
    js: JsConfig = field(default_factory=JsConfig)
    licence: str = ""
    repository: str = ""
    known: KnownModel | None = None
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names that may say what the model is: of the repository, or of the file and the folder given."""
        return (self.repository,) if self.repository else (self.name.rstrip("/").rsplit("/", 1)[-1], self.path.name)


def refuse_other_task(found: Located, called: str | Path, *, sure: bool) -> None:
    """Refuse a model that its metadata or configuration says is for another task, unless the user is sure of it."""
    task = found.graph.metadata.get("task", "depth")
    if task != "depth" and not sure:
        raise ModelError(f"{called}: its metadata says task {task}, not depth; choose a depth model")
    other = other_task(found.config)
    if other and not sure:
        raise ModelError(f"{found.config_where}: {other} is not a depth model; choose a depth model, or give --sense")


def find_target(model: str | Path, access: HubAccess) -> Target:
    """:func:`~streamdepth.models.selection.target_of` for the configured Hub; loads its client only if necessary."""
    return target_of(model, access.base_url) if "://" in str(model) else target_of(model)


@dataclass(frozen=True, slots=True)
class Request:
    """Which file of a model is wanted, and how it is downloaded; fields as arguments of ``resolve``."""

    access: HubAccess
    dtype: str = AUTO
    revision: str | None = None
    provider: str = "cpu"
    progress: Progress | None = None
    force: bool = False


def locate(target: Target, request: Request) -> Located:
    """Find the model's file, and download the necessary files of a repository.

    Raises:
        UsageError: a revision or dtype that the model does not have.
        ModelError, ModelNotFoundError: see :mod:`streamdepth.models.hub` and :mod:`streamdepth.models.graph`.
    """
    if target.kind == "hub":
        return _locate_hub(target, request)
    if request.revision:
        raise UsageError(f"revision {request.revision!r}: {target.name} is not on the Hub and has none; leave it out")
    if target.kind == "built-in":
        return _locate_builtin(request.dtype)
    if target.kind == "folder":
        return _locate_folder(target, request.dtype, request.provider)
    return _locate_file(target, request.dtype)


def builtin_record() -> Mapping[str, Any]:
    """``model.json`` of the model in the package."""
    record: dict[str, Any] = json.loads(_builtin_folder().joinpath("model.json").read_text(encoding="utf-8"))
    return record


def _builtin_folder() -> Path:
    # ONNX Runtime needs a path; the package cannot be imported from a zip, like its dependencies
    return Path(str(package_files("streamdepth.models.builtin")))


def _locate_builtin(dtype: str) -> Located:
    record = builtin_record()
    if dtype not in (AUTO, record["dtype"]):
        raise ModelNotFoundError(f"{BUILT_IN}: has no {dtype} file; it has {record['dtype']}: choose that or {AUTO}")
    path = _builtin_folder() / record["file"]
    if not path.is_file():
        raise ModelNotFoundError(f"{BUILT_IN}: {path} is missing; reinstall streamdepth")
    graph = read_graph(path)
    return Located(
        name=BUILT_IN,
        source="built-in",
        path=path,
        graph=graph,
        external_data=check_external(path, graph),
        dtype=record["dtype"],
        dtype_origin="default" if dtype == AUTO else "user",
        revision=f"{record['name']} {record['version']}",
        builtin=record,
        licence=record["licence"],
        notes=tuple(record["notes"]),
    )


def _locate_file(target: Target, dtype: str) -> Located:
    path = target.path
    graph = read_graph(path)
    stem, by_name = split_dtype(path.stem)
    is_dtype = "fp16" if by_name == "fp32" and graph.half_weights else by_name
    if dtype not in (AUTO, is_dtype):
        siblings = variants([p.name for p in path.parent.glob(f"{stem}*.onnx")], JsConfig("", stem), target.name)
        other = (
            f"give {path.parent / siblings[dtype]}" if dtype in siblings else f"leave the dtype out or say {is_dtype}"
        )
        raise UsageError(f"dtype {dtype!r}: {target.name} is {is_dtype}; {other}")
    config, preprocessor = _beside(path, CONFIG_NAME), _beside(path, PREPROCESSOR_NAME)
    return Located(
        name=target.name,
        source="file",
        path=path,
        graph=graph,
        external_data=check_external(path, graph),
        dtype=is_dtype,
        dtype_origin="graph" if dtype == AUTO else "user",
        config=read_json(config) if config else {},
        config_where=str(config),
        preprocessor=read_json(preprocessor) if preprocessor else None,
        preprocessor_where=str(preprocessor),
    )


def _beside(path: Path, name: str) -> Path | None:
    """A configuration file in the graph's folder, or in its parent if the layout or the content matches."""
    folder = path.absolute().parent
    if (folder / name).is_file():
        return folder / name
    above = folder.parent / name
    if not above.is_file():
        return None
    if folder.name == "onnx":
        return above
    # other programs may have a config.json there: use a model's only
    try:
        keys = read_json(above).keys()
    except ModelError:
        return None
    ours = {"model_type", "transformers.js_config", "image_processor_type", "feature_extractor_type", "image_mean"}
    return above if ours & keys else None


def folder_variants(target: Target, provider: str) -> tuple[Mapping[str, str], JsConfig, Mapping[str, Any]]:
    """dtype -> path in a local folder, and the content of its ``config.json``."""
    config = target.path / CONFIG_NAME
    settings = read_json(config) if config.is_file() else {}
    js = js_config(settings, provider, str(config))
    return variants(onnx_files(target.path), js, target.name, target.name), js, settings


def _locate_folder(target: Target, dtype: str, provider: str) -> Located:
    folder = target.path
    config = folder / CONFIG_NAME
    preprocessor = folder / PREPROCESSOR_NAME
    found, js, settings = folder_variants(target, provider)
    choice = choose(found, dtype, provider, js, target.name)
    path = folder / choice.path
    graph = read_graph(path)
    return Located(
        name=target.name,
        source="file",
        path=path,
        graph=graph,
        external_data=check_external(path, graph),
        dtype=choice.dtype,
        dtype_origin=choice.origin,
        config=settings,
        config_where=str(config),
        preprocessor=read_json(preprocessor) if preprocessor.is_file() else None,
        preprocessor_where=str(preprocessor),
        js=js,
        notes=(target.note,) if target.note else (),
    )


def _locate_hub(target: Target, request: Request) -> Located:
    revision = request.revision
    # a commit never changes: no request if the file is cached
    if revision and _COMMIT.fullmatch(revision) and (request.dtype != AUTO or target.file) and not request.force:
        cached = cached_listing(request.access, target.repository, revision)
        if cached is not None:
            with contextlib.suppress(ModelNotFoundError):
                return _from_listing(target, cached, request)
    return _from_listing(target, list_repository(request.access, target.repository, revision), request)


def hub_choice(target: Target, listing: Listing, request: Request) -> tuple[Choice, JsConfig, Mapping[str, Any]]:
    """The file of a repository to use, and its ``config.json``."""
    dtype, provider = request.dtype, request.provider
    settings = _hub_json(request, listing, CONFIG_NAME) or {}
    js = js_config(settings, provider, f"{target.repository}/{CONFIG_NAME}")
    if target.file:
        if target.file not in listing.files:
            onnx = ", ".join(sorted(f for f in listing.files if f.lower().endswith(".onnx"))) or "no ONNX file"
            raise ModelNotFoundError(f"{target.repository}: has no file {target.file}; it has {onnx}")
        is_dtype = split_dtype(Path(target.file).stem)[1]
        if dtype not in (AUTO, is_dtype):
            raise UsageError(f"dtype {dtype!r}: {target.file} is {is_dtype}; leave the dtype out or name another file")
        return Choice(target.file, is_dtype, "user"), js, settings
    found = variants(listing.files, js, target.repository, f"{HUB_SCHEME}{target.repository}")
    return choose(found, dtype, provider, js, target.repository), js, settings


def _from_listing(target: Target, listing: Listing, request: Request) -> Located:
    repository, access = target.repository, request.access
    choice, js, settings = hub_choice(target, listing, request)
    preprocessor = _hub_json(request, listing, PREPROCESSOR_NAME)
    path = fetch(access, listing, choice.path, force=request.force, progress=request.progress)
    graph = _checked(read_graph, repository, path)
    folder = choice.path.rpartition("/")[0]
    for data in graph.external:
        file = f"{folder}/{data.location}" if folder else data.location
        if file not in listing.files:
            kind = ModelNotFoundError if listing.cached_only else ModelError
            place = "the cache" if listing.cached_only else "the repository"
            raise kind(f"{repository}: {choice.path} needs {file}, which is not in {place}; {pull_hint(repository)}")
        fetch(access, listing, file, force=request.force, progress=request.progress)
    external = _checked(lambda p: check_external(p, graph), repository, path)
    remember_revision(access, listing, choice.path)
    return Located(
        name=target.name,
        source="hub",
        path=path,
        graph=graph,
        external_data=external,
        dtype=choice.dtype,
        dtype_origin=choice.origin,
        revision=listing.commit,
        config=settings,
        config_where=f"{repository}/{CONFIG_NAME}",
        preprocessor=preprocessor,
        preprocessor_where=f"{repository}/{PREPROCESSOR_NAME}",
        js=js,
        licence=listing.licence,
        repository=repository,
        known=find_known(repository),
        notes=(listing.note,) if listing.note else (),
    )


def _hub_json(request: Request, listing: Listing, name: str) -> dict[str, Any] | None:
    if name not in listing.files:
        return None
    path = fetch(request.access, listing, name, force=request.force)
    return _checked(read_json, listing.repository, path)


def _checked(read: Callable[[Path], _T], repository: str, path: Path) -> _T:
    """``read(path)``; on failure an error with the hint for a damaged download."""
    try:
        return read(path)
    except ModelError as exc:
        what = exc.message.split(";")[0]
        raise ModelError(
            f"{repository}: damaged cache entry, or not a depth model: {what}; {pull_hint(repository)}"
        ) from exc
