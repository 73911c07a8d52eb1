"""The Hugging Face Hub: what a repository has, and files of it in the local cache.

Everything on the wire is ``huggingface_hub``'s: tokens (``HF_TOKEN``, the stored login) go to the configured endpoint
only, redirects to other hosts lose them, a broken transfer resumes with a range request, files are locked and renamed
into place. Its environment (``HF_ENDPOINT``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``...) applies; what :class:`HubAccess`
names comes first.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from streamdepth.core.errors import ModelError, ModelNotFoundError, UsageError
from streamdepth.core.host import cache_root
from streamdepth.models.hub_errors import hub_error, is_unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

_COMMIT = re.compile(r"[0-9a-f]{40}")
# what git allows in a name, less what no Hub has; it also becomes a path in the cache
_REVISION = re.compile(r"[A-Za-z0-9][\w./+@-]*")
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


class Progress(Protocol):
    """Called while a file comes in, on the thread that downloads.

    ``done_bytes`` rises from 0 to ``total_bytes`` (None if the server does not say) for each ``file``; it may fall
    where a broken transfer starts again. What it raises ends the download.
    """

    def __call__(self, file: str, done_bytes: int, total_bytes: int | None, /) -> None: ...


@dataclass(frozen=True, slots=True)
class HubAccess:
    """How to reach the Hub. None = as the environment says.

    Attributes:
        endpoint: base URL, e.g. of a mirror.
        cache_dir: the Hub's cache folder.
        token: access token; sent to the endpoint only.
        offline: True never touches the network.
        timeout_seconds: for the Hub's first answer, before the cache is used instead.
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
        """Where the cache keeps a repository: ``blobs``, ``refs`` and ``snapshots`` (a documented layout)."""
        return self.cache / f"models--{repository.replace('/', '--')}"


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file of a repository; size and SHA-256 are None where the Hub did not say."""

    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository has at one commit.

    Attributes:
        repository: ``org/name``.
        revision: as asked for.
        commit: what that is now, or was when it was cached.
        files: path -> what is known of it.
        licence: from the model card, empty if unknown.
        cached_only: True where the network was not used: ``files`` are those in the cache.
        note: why the cache was used, empty if it was not.
    """

    repository: str
    revision: str
    commit: str
    files: Mapping[str, RepoFile]
    licence: str = ""
    cached_only: bool = False
    note: str = ""


def list_repository(access: HubAccess, repository: str, revision: str | None = None) -> Listing:
    """Ask the Hub (one request), or the cache where offline or where the Hub cannot be reached.

    Raises:
        ModelNotFoundError: no such repository or revision, or not in the cache while offline.
        ModelError: access denied, the Hub is down, or cannot be reached, and there is nothing in the cache.
        UsageError: not a repository's or a revision's name.
    """
    wanted = revision or "main"
    if not _REVISION.fullmatch(wanted) or ".." in wanted:
        raise UsageError(f"revision {wanted!r}: give a branch, tag or commit")
    if access.is_offline:
        found = _from_cache(access, repository, wanted, "offline: using the cache")
        if found is None:
            raise ModelNotFoundError(
                f"{repository}: offline, and revision {wanted} is not in the cache {access.cache};"
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
        error = hub_error(exc, repository, access.base_url, revision=wanted)
        if not is_unreachable(exc):
            raise error from exc
        found = _from_cache(access, repository, wanted, f"{error.message.split(';')[0]}: using the cache")
        if found is None:
            raise error from exc
        return found
    if not info.sha:
        raise ModelError(f"{repository}: {access.base_url} answered without a commit; check HF_ENDPOINT")
    files = {}
    for sibling in info.siblings or []:
        sha256 = getattr(sibling.lfs, "sha256", None)
        files[sibling.rfilename] = RepoFile(sibling.size, sha256)
    card: Any = info.card_data
    licence = card.get("license") if card is not None else None
    return Listing(repository, wanted, info.sha, files, _licence(licence))


def cached_listing(access: HubAccess, repository: str, revision: str) -> Listing | None:
    """What the cache has of a revision, without asking the Hub; None if nothing."""
    found = _from_cache(access, repository, revision, "")
    return None if found is None else replace(found, note="")


def _licence(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _from_cache(access: HubAccess, repository: str, revision: str, note: str) -> Listing | None:
    folder = access.folder(repository)
    commit = revision if _COMMIT.fullmatch(revision) else _read_ref(folder, revision)
    snapshot = folder / "snapshots" / commit
    if not commit or not snapshot.is_dir():
        return None
    # a link whose target is gone is a file that is not there
    files = {p.relative_to(snapshot).as_posix(): RepoFile(p.stat().st_size) for p in snapshot.rglob("*") if p.is_file()}
    if not files:
        return None
    return Listing(repository, revision, commit, files, cached_only=True, note=f"{note} (commit {commit[:8]})")


def _read_ref(folder: Path, revision: str) -> str:
    ref = folder / "refs" / revision
    try:
        return ref.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def cached_path(access: HubAccess, listing: Listing, file: str) -> Path | None:
    """Where the cache has a file of the listing's commit, None if it has not."""
    path = access.folder(listing.repository) / "snapshots" / listing.commit / file
    return path if path.is_file() else None


def fetch(
    access: HubAccess, listing: Listing, file: str, *, force: bool = False, progress: Progress | None = None
) -> Path:
    """Local path of a file inside its snapshot folder, downloaded if it has to be.

    Not the real path of the blob behind it: next to that, a graph does not find its weight files.

    Raises:
        ModelNotFoundError: no such file.
        ModelError: access denied, network or Hub failure, a full disk, or a cache entry of the wrong size.
    """
    cached = cached_path(access, listing, file)
    if cached is not None and not force:
        _check_size(access, listing, file, cached)
        return cached
    if listing.cached_only:
        wanted = "cannot be downloaded again" if force else "is not in the cache"
        raise ModelNotFoundError(f"{listing.repository}: {file} {wanted}, the Hub cannot be asked; go online once")
    if cached is not None and not cached.is_symlink():
        # where links do not work the cache holds copies, which huggingface_hub does not replace
        cached.unlink()
    return _download(access, listing, file, listing.commit, force, progress)


def remember_revision(access: HubAccess, listing: Listing, file: str) -> None:
    """Let the cache know which commit a branch or tag is now, so that it can be found offline later.

    Files are fetched by commit, all of one commit even where the branch moves meanwhile; the cache learns the name
    only from a download by name.
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
    """The way out of a damaged cache entry."""
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
    """A progress bar class, as ``huggingface_hub`` wants one, that draws nothing and tells ``progress``.

    What ``progress`` raises is put into ``raised`` too, to tell it from the download's own errors.
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

        def close(self) -> None:
            pass

        def refresh(self, *_: object, **__: object) -> None:
            pass

        def set_description(self, *_: object, **__: object) -> None:
            pass

    return Reporter
