"""The model commands: list known and cached models, show one in detail, and download one ahead of use."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from streamdepth.core.errors import ModelError, ModelNotFoundError, UsageError
from streamdepth.core.frame import Sense
from streamdepth.models.graph import read_graph
from streamdepth.models.hub import (
    HubAccess,
    Listing,
    RepoFile,
    cached_path,
    fetch,
    list_repository,
    pull_hint,
)
from streamdepth.models.known import find_known, known_models
from streamdepth.models.locate import Request, builtin_record, find_target, folder_variants, hub_choice
from streamdepth.models.resolve import resolve
from streamdepth.models.selection import AUTO, BUILT_IN, check_dtype, in_order, split_dtype, variants

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamdepth.models.hub import Progress
    from streamdepth.models.spec import ModelSpec

_MB = 1_000_000
_FAST_MB, _MEDIUM_MB = 20, 200
_SHARED = ("name", "sense", "licence", "sizes_mb", "speed_ms", "notes")
"""Fields of :class:`ModelEntry` that a row of the table has too."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One line of ``models list``.

    Attributes:
        name: name to use for ``--model``.
        kind: in the package, in the table, or only in the cache.
        sense: meaning of the output, None if unknown before the graph is read.
        licence: SPDX id or name, empty if unknown.
        sizes_mb: dtype -> megabytes to download (in the package: on disk).
        speed_ms: ``"dtype WxH"`` -> measured milliseconds per image (two x86-64 cores, ONNX Runtime's CPU provider).
        cached: dtypes in the cache.
        cached_bytes: size in the cache.
        notes: one line each.
    """

    name: str
    kind: Literal["built-in", "known", "cached"]
    sense: Sense | None
    licence: str = ""
    sizes_mb: Mapping[str, int] = field(default_factory=dict)
    speed_ms: Mapping[str, float] = field(default_factory=dict)
    cached: tuple[str, ...] = ()
    cached_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def speed_class(self) -> str:
        """``fast`` (video on a CPU), ``medium`` or ``slow`` by the size of the float32 file: 20 and 200 MB."""
        size = self.sizes_mb.get("fp32", max(self.sizes_mb.values(), default=0))
        if not size:
            return "speed unknown"
        return "fast" if size <= _FAST_MB else "medium" if size <= _MEDIUM_MB else "slow"


@dataclass(frozen=True, slots=True)
class VariantFile:
    """One dtype of a model: path of its graph in the repository or folder, bytes with weights, whether it is local."""

    dtype: str
    file: str
    size_bytes: int | None
    local: bool


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """``models show``: everything that is known without a download.

    Attributes:
        name: as requested, redacted.
        revision: commit or version, empty where there is none.
        variants: available dtypes.
        chosen: dtype for the requested one and the provider.
        spec: specification of the chosen dtype, None if its graph is not local.
        licence: from the table or the model card.
        notes: one line each.
    """

    name: str
    revision: str
    variants: tuple[VariantFile, ...]
    chosen: str
    spec: ModelSpec | None
    licence: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pulled:
    """Result of ``models pull``: the model, its local files, and those that were downloaded or repaired."""

    spec: ModelSpec
    files: tuple[Path, ...]
    downloaded: tuple[str, ...]
    repaired: tuple[str, ...]


def list_models(access: HubAccess | None = None) -> tuple[ModelEntry, ...]:
    """The built-in model, those of the table, then others in the cache. No network access."""
    cached = _scan_cache(access or HubAccess())
    record = builtin_record()
    file = Path(resolve(BUILT_IN).path)
    entries = [
        ModelEntry(
            name=BUILT_IN,
            kind="built-in",
            sense=Sense(record["sense"]),
            licence=record["licence"],
            sizes_mb={record["dtype"]: round(file.stat().st_size / _MB)},
            speed_ms=record["speed_ms"],
            notes=tuple(record["notes"]),
        )
    ]
    for model in known_models():
        dtypes, size = cached.pop(model.name.lower(), ("", (), 0))[1:]
        shared: dict[str, Any] = {name: getattr(model, name) for name in _SHARED}
        entries.append(ModelEntry(kind="known", cached=dtypes, cached_bytes=size, **shared))
    for name, dtypes, size in sorted(cached.values()):
        entries.append(ModelEntry(name=name, kind="cached", sense=None, cached=dtypes, cached_bytes=size))
    return tuple(entries)


def _scan_cache(access: HubAccess) -> dict[str, tuple[str, tuple[str, ...], int]]:
    """Lower-case repository -> its name, cached dtypes, bytes; only repositories with ONNX files."""
    if not access.cache.is_dir():
        return {}
    from huggingface_hub import scan_cache_dir

    found = {}
    for repo in scan_cache_dir(access.cache).repos:
        files = {file.file_name for revision in repo.revisions for file in revision.files}
        dtypes = {split_dtype(PurePosixPath(f).stem)[1] for f in files if f.lower().endswith(".onnx")}
        if repo.repo_type == "model" and dtypes:
            found[repo.repo_id.lower()] = (repo.repo_id, tuple(in_order(dtypes)), int(repo.size_on_disk))
    return found


def show_model(
    model: str | Path,
    *,
    dtype: str = AUTO,
    revision: str | None = None,
    provider: str = "cpu",
    access: HubAccess | None = None,
) -> ModelDetails:
    """One model in detail. Lists a repository on the Hub, and downloads its configuration only.

    Raises:
        As :func:`~streamdepth.models.resolve.resolve`.
    """
    check_dtype(dtype)
    access = access or HubAccess()
    target = find_target(model, access)
    if target.kind != "hub":
        spec = resolve(model, dtype=dtype, revision=revision, provider=provider, access=access)
        graphs: Mapping[str, str] = {spec.dtype: spec.path.name}
        root = spec.path.parent
        if target.kind == "folder":
            graphs, root = folder_variants(target, provider)[0], target.path
        here = tuple(VariantFile(d, graphs[d], _size_here(root / graphs[d]), True) for d in in_order(graphs))
        return ModelDetails(target.name, spec.revision, here, spec.dtype, spec, spec.licence, spec.notes)
    listing = list_repository(access, target.repository, revision)
    choice, js, _ = hub_choice(target, listing, Request(access, dtype, revision, provider))
    if target.file:
        found: Mapping[str, str] = {choice.dtype: choice.path}
    else:
        found = variants(listing.files, js, target.repository)
    shown = tuple(
        VariantFile(d, found[d], _size(listing, found[d]), cached_path(access, listing, found[d]) is not None)
        for d in in_order(found)
    )
    known = find_known(target.repository)
    notes = [listing.note] if listing.note else []
    try:
        spec_here: ModelSpec | None = resolve(
            model,
            dtype=dtype if target.file else choice.dtype,
            revision=listing.commit,
            provider=provider,
            access=replace(access, offline=True),
        )
    except ModelNotFoundError:
        spec_here = None
        notes.append(f"{choice.dtype} is not downloaded; run `streamdepth models pull {target.name}`")
    licence = (known.licence if known is not None else "") or listing.licence
    return ModelDetails(target.name, listing.commit, shown, choice.dtype, spec_here, licence, tuple(notes))


def _size_here(graph: Path) -> int:
    files = (graph, *(graph.parent / data.location for data in read_graph(graph).external))
    return sum(path.stat().st_size for path in files if path.is_file())


def _size(listing: Listing, graph: str) -> int | None:
    """Bytes of a graph and its weight files, by the usual names (``model.onnx_data``, ``_data_1``)."""
    sizes = [entry.size for file, entry in listing.files.items() if file == graph or file.startswith(f"{graph}_data")]
    return None if any(size is None for size in sizes) else sum(size or 0 for size in sizes)


def pull(
    model: str,
    *,
    dtype: str = AUTO,
    revision: str | None = None,
    provider: str = "cpu",
    force: bool = False,
    progress: Progress | None = None,
    access: HubAccess | None = None,
) -> Pulled:
    """Download a Hub model into the cache, check its files, and repair damaged ones.

    Args:
        force: download undamaged files again too.
    Raises:
        UsageError: not a Hub name.
        ModelError: as :func:`~streamdepth.models.resolve.resolve`, or a file differs from the Hub's digest.
    """
    check_dtype(dtype)
    access = access or HubAccess()
    target = find_target(model, access)
    if target.kind != "hub":
        raise UsageError(f"model {target.name}: is local; only Hub names (org/name) can be pulled")
    listing = list_repository(access, target.repository, revision)
    if listing.cached_only and force:
        raise ModelError(f"{target.repository}: cannot be downloaded again; {listing.note}, go online first")
    repaired = _repair(access, listing, progress)
    downloaded: list[str] = []

    def report(file: str, done_bytes: int, total_bytes: int | None, /) -> None:
        if file not in downloaded:
            downloaded.append(file)
        if progress is not None:
            progress(file, done_bytes, total_bytes)

    spec = resolve(
        model,
        dtype=dtype,
        # the name, not the commit just listed, so that the cache stores the commit of the name
        revision=revision,
        provider=provider,
        access=access,
        progress=report,
        force=force,
    )
    snapshot = access.folder(target.repository) / "snapshots" / spec.revision
    for file in downloaded:
        if _damaged(snapshot / file, listing.files.get(file, RepoFile())):
            raise ModelError(f"{target.repository}/{file}: damaged download; {pull_hint(target.repository)}")
    files = (spec.path, *spec.external_data)
    return Pulled(spec, files, tuple(downloaded), repaired)


def _repair(access: HubAccess, listing: Listing, progress: Progress | None) -> tuple[str, ...]:
    if listing.cached_only:
        return ()
    repaired = []
    for file, entry in listing.files.items():
        path = cached_path(access, listing, file)
        if path is not None and _damaged(path, entry):
            fetch(access, listing, file, force=True, progress=progress)
            repaired.append(file)
    return tuple(repaired)


def _damaged(path: Path, entry: RepoFile) -> bool:
    if entry.size is not None and path.stat().st_size != entry.size:
        return True
    if entry.sha256 is None:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256
