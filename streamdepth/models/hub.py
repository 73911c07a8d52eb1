"""The Hugging Face Hub: files of a repository, in the local cache, and its errors as one line with a hint.

All network access is ``huggingface_hub``'s: tokens (``HF_TOKEN``, the stored login) are sent to the configured endpoint
only, redirects to other hosts lose them, a broken transfer resumes with a range request, files are locked and renamed
into place. Its environment variables (``HF_ENDPOINT``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``...) apply; values of
:class:`HubAccess` take precedence.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from streamdepth.core.errors import DeadlineError, ModelError, ModelNotFoundError, StreamDepthError, UsageError
from streamdepth.core.host import cache_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TOKEN_HINT = "set HF_TOKEN to a token that may read it"  # noqa: S105 - a sentence


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__


def _kinds(exc: BaseException) -> set[str]:
    """Class names of an error and its causes.

    By name, because huggingface_hub 1 uses httpx and huggingface_hub 2 uses httpx2, with the same names.
    """
    return {kind.__name__ for cause in _causes(exc) for kind in type(cause).__mro__}


def _status(exc: BaseException) -> int:
    codes = (getattr(getattr(cause, "response", None), "status_code", None) for cause in _causes(exc))
    return next((code for code in codes if isinstance(code, int)), 0)


def is_unreachable(exc: BaseException) -> bool:
    """Whether the Hub could not be reached, so that the cache is used instead."""
    if _status(exc) >= 500 or _status(exc) == 429:
        return True
    return _status(exc) == 0 and bool(_kinds(exc) & {"TransportError", "OfflineModeIsEnabled"})


def hub_error(
    exc: BaseException, repository: str, endpoint: str, *, revision: str = "main", file: str = ""
) -> StreamDepthError:
    """The error to raise for an exception of ``huggingface_hub``; ``file`` is empty for a request of the repository."""
    kinds, status = _kinds(exc), _status(exc)
    what = f"{repository}/{file}" if file else repository
    if "GatedRepoError" in kinds:
        return ModelError(f"{repository}: gated; accept its terms at {endpoint}/{repository} and {_TOKEN_HINT}")
    if "RevisionNotFoundError" in kinds:
        return ModelNotFoundError(f"{repository}: has no revision {revision!r}; give a branch, tag or commit of it")
    if "RemoteEntryNotFoundError" in kinds:
        return ModelNotFoundError(
            f"{repository}: has no file {file or '?'} at {revision}; check the name and --revision"
        )
    if "DisabledRepoError" in kinds:
        return ModelError(f"{repository}: disabled by the Hub; choose another model")
    if status == 401 or "RepositoryNotFoundError" in kinds:
        return ModelNotFoundError(
            f"{repository}: not found at {endpoint}, or private; check the name, or {_TOKEN_HINT}"
        )
    if status == 403:
        return ModelError(f"{what}: access denied by {endpoint} (403); {_TOKEN_HINT}")
    if status == 404:
        return ModelNotFoundError(f"{what}: not found at {endpoint}; check the name, --revision and HF_ENDPOINT")
    if status == 429:
        return ModelError(f"{what}: {endpoint} limits the rate (429); wait some minutes, or set HF_TOKEN")
    if status >= 500:
        return ModelError(f"{what}: {endpoint} failed ({status}); try again later")
    if status >= 400:
        return ModelError(f"{what}: {endpoint} refused the request ({status}); check the name and HF_ENDPOINT")
    if "OfflineModeIsEnabled" in kinds:
        return ModelNotFoundError(f"{what}: offline, and not in the cache; go online once, or unset HF_HUB_OFFLINE")
    if "TimeoutException" in kinds:
        return DeadlineError(f"{what}: {endpoint} did not answer in time; check the network and try again")
    if "ProxyError" in kinds:
        return ModelError(f"{what}: the proxy refuses {endpoint}; check HTTPS_PROXY and NO_PROXY")
    if "TransportError" in kinds:
        return ModelError(f"{what}: cannot reach {endpoint} ({_reason(exc)}); check the network and HF_ENDPOINT")
    if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelError(f"{what}: no space left in the cache; free some, or set HF_HUB_CACHE to another disk")
    if isinstance(exc, OSError) and exc.errno is not None and exc.filename is not None:
        why = f"{exc.filename}: {exc.strerror}"
        return ModelError(f"{what}: cannot write to the cache ({why}); set HF_HUB_CACHE to a writable folder")
    if "Consistency check failed" in str(exc):
        return ModelError(f"{what}: incomplete download; run `streamdepth models pull {repository} --force`")
    return ModelError(f"{what}: download from {endpoint} failed ({_reason(exc)}); check the network and HF_ENDPOINT")


def _reason(exc: BaseException) -> str:
    """The innermost cause with a text, in one line."""
    reason = type(exc).__name__
    current: BaseException | None = exc
    while current is not None:
        text = str(current).strip().splitlines()
        if (text and "Errno" in text[0]) or (isinstance(current, OSError) and text):
            reason = text[0]
        current = current.__cause__ or current.__context__
    return reason[:200]


_COMMIT = re.compile(r"[0-9a-f]{40}")
# the names of git that a Hub allows; the name is also a path in the cache
_REVISION = re.compile(r"[A-Za-z0-9][\w./+@-]*")
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


class Progress(Protocol):
    """Called during a download, on its thread.

    ``done_bytes`` rises from 0 to ``total_bytes`` (None if unknown) for each ``file``; it may fall when a broken
    transfer starts again. An exception ends the download.
    """

    def __call__(self, file: str, done_bytes: int, total_bytes: int | None, /) -> None: ...


@dataclass(frozen=True, slots=True)
class HubAccess:
    """How to reach the Hub. None = from the environment.

    Attributes:
        endpoint: base URL, e.g. of a mirror.
        cache_dir: the Hub's cache folder.
        token: access token; sent to the endpoint only.
        offline: True never touches the network.
        timeout_seconds: for the Hub's first answer; after that the cache is used.
    """

    endpoint: str | None = None
    cache_dir: Path | None = None
    token: str | None = field(default=None, repr=False)
    offline: bool | None = None
    timeout_seconds: float = 10.0

    @property
    def base_url(self) -> str:
        if self.endpoint is not None:
            return self.endpoint.rstrip("/")
        from huggingface_hub import constants

        return os.environ.get("HF_ENDPOINT", "").rstrip("/") or str(constants.ENDPOINT)

    @property
    def cache(self) -> Path:
        if self.cache_dir is not None:
            return self.cache_dir.expanduser()
        from huggingface_hub import constants

        usual = Path(constants.HF_HUB_CACHE)
        return cache_root() / "hub" if usual.parts[0] == "~" else usual  # a user without a home

    @property
    def is_offline(self) -> bool:
        if self.offline is not None:
            return self.offline
        from huggingface_hub import constants

        return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE

    def folder(self, repository: str) -> Path:
        """Folder of a repository in the cache, with ``blobs``, ``refs`` and ``snapshots`` (a documented layout)."""
        return self.cache / f"models--{repository.replace('/', '--')}"


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file of a repository; size and SHA-256 are None where unknown."""

    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit.

    Attributes:
        repository: ``org/name``.
        revision: as requested.
        commit: commit of the revision now, or when it was cached.
        files: path -> size and digest.
        licence: from the model card, empty if unknown.
        cached_only: the network was not used; ``files`` are those in the cache.
        note: why the cache was used, else empty.
    """

    repository: str
    revision: str
    commit: str
    files: Mapping[str, RepoFile]
    licence: str = ""
    cached_only: bool = False
    note: str = ""


def list_repository(access: HubAccess, repository: str, revision: str | None = None) -> Listing:
    """List a repository by one request to the Hub, or from the cache if offline or the Hub cannot be reached.

    Raises:
        ModelNotFoundError: no such repository or revision, or not in the cache while offline.
        ModelError: access denied, the Hub is down, or cannot be reached, and there is nothing in the cache.
        UsageError: invalid name of a repository or revision.
    """
    name = revision or "main"
    if not _REVISION.fullmatch(name) or ".." in name:
        raise UsageError(f"revision {name!r}: give a branch, tag or commit")
    if access.is_offline:
        found = cached_listing(access, repository, name, "offline: using the cache")
        if found is None:
            raise ModelNotFoundError(
                f"{repository}: offline, and revision {name} is not in the cache {access.cache};"
                " go online once, or unset HF_HUB_OFFLINE"
            )
        return found
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        info = HfApi(endpoint=access.base_url, token=access.token).model_info(
            repository, revision=revision, timeout=access.timeout_seconds, files_metadata=True
        )
    except HFValidationError as exc:
        raise UsageError(f"model {repository!r}: a Hub name is org/name; check it, or give a path") from exc
    except Exception as exc:
        error = hub_error(exc, repository, access.base_url, revision=name)
        if not is_unreachable(exc):
            raise error from exc
        found = cached_listing(access, repository, name, f"{error.message.split(';')[0]}: using the cache")
        if found is None:
            raise error from exc
        return found
    if not info.sha:
        raise ModelError(f"{repository}: {access.base_url} answered without a commit; check HF_ENDPOINT")
    siblings = info.siblings or []
    files = {one.rfilename: RepoFile(one.size, getattr(one.lfs, "sha256", None)) for one in siblings}
    card: Any = info.card_data
    given = (card.get("license") if card is not None else None) or ""
    licence = ", ".join(map(str, given)) if isinstance(given, list) else str(given)
    return Listing(repository, name, info.sha, files, licence)


def cached_listing(access: HubAccess, repository: str, revision: str, note: str = "") -> Listing | None:
    """The cached files of a revision, without a request; None if there are none. ``note``: why the cache is used."""
    folder = access.folder(repository)
    commit = revision if _COMMIT.fullmatch(revision) else _read_ref(folder, revision)
    snapshot = folder / "snapshots" / commit
    if not commit or not snapshot.is_dir():
        return None
    # a dangling link is a missing file
    files = {p.relative_to(snapshot).as_posix(): RepoFile(p.stat().st_size) for p in snapshot.rglob("*") if p.is_file()}
    if not files:
        return None
    return Listing(repository, revision, commit, files, cached_only=True, note=note and f"{note} (commit {commit[:8]})")


def _read_ref(folder: Path, revision: str) -> str:
    ref = folder / "refs" / revision
    try:
        return ref.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def cached_path(access: HubAccess, listing: Listing, file: str) -> Path | None:
    """Path of a file of the listing's commit in the cache, None if it is not cached."""
    path = access.folder(listing.repository) / "snapshots" / listing.commit / file
    return path if path.is_file() else None


def fetch(
    access: HubAccess, listing: Listing, file: str, *, force: bool = False, progress: Progress | None = None
) -> Path:
    """Local path of a file in its snapshot folder, downloaded if necessary.

    Not the real path of the blob, beside which a graph does not find its weight files.

    Raises:
        ModelNotFoundError: no such file.
        ModelError: access denied, network or Hub failure, a full disk, or a cache entry of the wrong size.
    """
    cached = cached_path(access, listing, file)
    if cached is not None and not force:
        _check_size(access, listing, file, cached)
        return cached
    if listing.cached_only:
        reason = "cannot be downloaded again" if force else "is not in the cache"
        raise ModelNotFoundError(f"{listing.repository}: {file} {reason}, and the Hub is not reachable; go online once")
    if cached is not None and not cached.is_symlink():
        # without links the cache has copies, which huggingface_hub does not replace
        cached.unlink()
    return _download(access, listing, file, listing.commit, force, progress)


def remember_revision(access: HubAccess, listing: Listing, file: str) -> None:
    """Store the commit of a branch or tag in the cache, so that it can be found offline.

    Files are fetched by commit, so that all are of one commit even if the branch moves; the cache stores a name only
    with a download by name.
    """
    if listing.cached_only or _COMMIT.fullmatch(listing.revision):
        return
    if _read_ref(access.folder(listing.repository), listing.revision) == listing.commit:
        return
    _download(access, listing, file, listing.revision, False, None)


def _download(
    access: HubAccess, listing: Listing, file: str, revision: str, force: bool, progress: Progress | None
) -> Path:
    from huggingface_hub import hf_hub_download

    raised: list[BaseException] = []
    try:
        path = hf_hub_download(
            listing.repository,
            file,
            revision=revision,
            cache_dir=access.cache,
            endpoint=access.base_url,
            token=access.token,
            etag_timeout=access.timeout_seconds,
            force_download=force,
            tqdm_class=_reporter(file, progress, raised),
        )
    except Exception as exc:
        if exc in raised:
            raise
        raise hub_error(exc, listing.repository, access.base_url, revision=listing.revision, file=file) from exc
    return Path(path)


def pull_hint(repository: str) -> str:
    """Hint for a damaged cache entry."""
    return f"run `streamdepth models pull {repository} --force`"


def _check_size(access: HubAccess, listing: Listing, file: str, path: Path) -> None:
    expected = listing.files.get(file, RepoFile()).size
    size = path.stat().st_size
    if expected is not None and size != expected:
        raise ModelError(
            f"{listing.repository}: damaged cache entry {path} ({size} of {expected} bytes);"
            f" {pull_hint(listing.repository)}, or delete {access.folder(listing.repository)}"
        )


def _reporter(file: str, progress: Progress | None, raised: list[BaseException]) -> type[Any]:
    """A progress bar class for ``huggingface_hub`` that draws nothing and calls ``progress``.

    Exceptions of ``progress`` are added to ``raised``, to distinguish them from errors of the download.
    """

    class Reporter:
        def __init__(self, *_: object, total: float | None = None, initial: float = 0, **__: object) -> None:
            self.total = None if total is None else int(total)
            self.n = int(initial)
            self._report()

        def __enter__(self) -> Reporter:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            self._report()

        def _report(self) -> None:
            if progress is None:
                return
            try:
                progress(file, self.n, self.total)
            except BaseException as exc:
                raised.append(exc)
                raise

        def close(self, *_: object, **__: object) -> None:
            pass

        refresh = set_description = close

    return Reporter
