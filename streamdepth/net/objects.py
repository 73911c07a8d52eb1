"""Object storage by fsspec URLs: ``s3://``, ``gs://``, ``az://``.

Credentials come from the means of each service: environment variables, configuration files, roles of the machine. They
are never part of a URL.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import MissingDependencyError, UsageError, install_command, redact, split_userinfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamdepth.core.errors import StreamDepthError

OBJECT_SCHEMES = ("s3", "gs", "az", "abfs")
_MAGIC = frozenset("*?[")


def is_object_url(text: str) -> bool:
    """True for a URL of object storage."""
    return text.partition("://")[0].lower() in OBJECT_SCHEMES and "://" in text


class ObjectStore:
    """The storage service that a URL names. Thread-safe.

    Raises:
        UsageError: the URL contains credentials.
        MissingDependencyError: the package for the service is not installed.
    """

    def __init__(self, url: str) -> None:
        if split_userinfo(url)[0] is not None:
            raise UsageError(
                f"{redact(url)}: a URL cannot contain credentials; set them in the environment or a configuration "
                "file of the service"
            )
        self.url = url
        scheme = url.partition("://")[0].lower()
        try:
            import fsspec

            self._files: Any = fsspec.filesystem(scheme)
        except (ImportError, ValueError) as error:
            raise MissingDependencyError(
                f"{redact(url)}: {scheme}:// needs a package ({one_reason(error)}); {install_command('cloud')}"
            ) from error

    def exists(self) -> bool:
        return bool(self._files.exists(self.url))

    def find(self, *, missing_ok: bool = False) -> list[str]:
        """URLs of the objects in the folder, or matching the pattern, sorted.

        Args:
            missing_ok: a folder that does not exist is empty.
        """
        scheme = self.url.partition("://")[0]
        self._files.invalidate_cache()  # other machines write to the folder
        if missing_ok and not self._files.exists(self.url):
            return []
        if _MAGIC.isdisjoint(self.url):
            names = [one["name"] for one in self._files.ls(self.url, detail=True) if one["type"] == "file"]
        else:
            names = self._files.glob(self.url)
        return sorted(f"{scheme}://{name}" for name in names)

    def open(self) -> Any:
        """A binary file to read."""
        return self._files.open(self.url, "rb")

    def get(self, path: str) -> None:
        """Download to a local file."""
        self._files.get_file(self.url, path)

    def modified(self) -> str:
        """What changes with the content: the service's entity tag, else the time of the last change."""
        info = self._files.info(self.url)
        return str(info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("mtime") or "")

    def remove(self) -> None:
        """Delete the object. Idempotent."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self.url)

    def put(self, path: str) -> None:
        """Upload a local file. The object appears, or replaces an older one, when all of it has arrived."""
        self._files.put_file(path, self.url)


def names_several(url: str) -> bool:
    """True for a folder or a pattern."""
    return url.endswith("/") or not _MAGIC.isdisjoint(url)


@contextlib.contextmanager
def explained(url: str, kind: type[StreamDepthError], what: str) -> Iterator[None]:
    """Raise ``kind`` for an error of the service: ``URL: what (reason)``, without secrets."""
    from streamdepth.core.errors import StreamDepthError

    try:
        yield
    except StreamDepthError:
        raise
    except Exception as error:  # each service has exceptions of its own
        # The cause is left out: messages of the services can contain signed requests.
        reason = "it does not exist" if isinstance(error, FileNotFoundError) else one_reason(error)
        raise kind(f"{redact(url)}: {what} ({reason}); check the URL and the credentials") from None


def one_reason(error: BaseException) -> str:
    """The first line of a message, without secrets."""
    text = str(error).strip().splitlines()
    return redact(text[0][:200]) if text else type(error).__name__
