"""What went wrong at the Hub, as one line with a way out."""

from __future__ import annotations

import errno

from streamdepth.core.errors import DeadlineError, ModelError, ModelNotFoundError, StreamDepthError

_TOKEN_HINT = "set HF_TOKEN to a token that may read it"  # noqa: S105 - a sentence


def _kinds(exc: BaseException) -> set[str]:
    """Names of an error's classes, its causes' included.

    By name, because huggingface_hub moved from httpx to httpx2 between its versions 1 and 2 and both keep the names.
    """
    names: set[str] = set()
    current: BaseException | None = exc
    while current is not None:
        names |= {kind.__name__ for kind in type(current).__mro__}
        current = current.__cause__
    return names


def _status(exc: BaseException) -> int:
    current: BaseException | None = exc
    while current is not None:
        code = getattr(getattr(current, "response", None), "status_code", None)
        if isinstance(code, int):
            return code
        current = current.__cause__
    return 0


def is_unreachable(exc: BaseException) -> bool:
    """True where the Hub itself could not be asked, so that the cache's answer is the best there is."""
    if _status(exc) >= 500 or _status(exc) == 429:
        return True
    return _status(exc) == 0 and bool(_kinds(exc) & {"TransportError", "OfflineModeIsEnabled"})


def hub_error(
    exc: BaseException, repository: str, endpoint: str, *, revision: str = "main", file: str = ""
) -> StreamDepthError:
    """The error to raise for one of ``huggingface_hub``'s; ``file`` is empty where the repository was asked for."""
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
        return ModelError(f"{what}: {endpoint} is out of order ({status}); try again later")
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
        return ModelError(f"{what}: cannot write to the cache ({why}); set HF_HUB_CACHE to a folder of yours")
    if "Consistency check failed" in str(exc):
        return ModelError(f"{what}: came in incomplete; run `streamdepth models pull {repository} --force`")
    return ModelError(f"{what}: cannot be had from {endpoint} ({_reason(exc)}); check the network and HF_ENDPOINT")


def _reason(exc: BaseException) -> str:
    """The innermost cause that says anything, in one line."""
    said = type(exc).__name__
    current: BaseException | None = exc
    while current is not None:
        text = str(current).strip().splitlines()
        if (text and "Errno" in text[0]) or (isinstance(current, OSError) and text):
            said = text[0]
        current = current.__cause__ or current.__context__
    return said[:200]
