"""Which ONNX file of a folder or repository to take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from streamdepth.core.errors import ModelError, ModelNotFoundError, UsageError
from streamdepth.models.dtypes import AUTO, SUFFIXES, auto_order, in_order, split_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from streamdepth.models.hub_config import JsConfig
    from streamdepth.models.spec import Origin


@dataclass(frozen=True, slots=True)
class Choice:
    """The file to take, its dtype, and who decided on it."""

    path: str
    dtype: str
    origin: Origin


def check_dtype(dtype: str) -> str:
    """``dtype`` itself.

    Raises:
        UsageError: not one that exists.
    """
    if dtype not in SUFFIXES and dtype != AUTO:
        raise UsageError(f"dtype {dtype!r}: choose one of {AUTO}, {', '.join(SUFFIXES)}")
    return dtype


def variants(files: Iterable[str], js: JsConfig, where: str, prefix: str = "") -> Mapping[str, str]:
    """dtype -> path of every form of the model among ``files`` (relative, with ``/``).

    Looks in the transformers.js place first, then at the root, then for the one model anywhere.

    Args:
        where: name of the folder or repository in messages.
        prefix: what to put before a file's path to name it; empty = ``where``.
    Raises:
        ModelNotFoundError: no ONNX file.
        ModelError: several models, and nothing to choose by.
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
    """One of the variants: the dtype asked for, or for ``auto`` the author's choice, else the provider's best.

    Raises:
        ModelNotFoundError: the dtype asked for is not there; lists what is.
    """
    if dtype != AUTO:
        if dtype not in found:
            raise ModelNotFoundError(
                f"{where}: has no {dtype} file; it has {', '.join(in_order(found))}: choose one of these or {AUTO}"
            )
        return Choice(found[dtype], dtype, "user")
    if js.dtype in found:
        return Choice(found[js.dtype], js.dtype, "config")
    best = next(d for d in auto_order(provider) if d in found)
    return Choice(found[best], best, "default")
