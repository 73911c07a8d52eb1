"""Video into depth, live or offline. Public names are imported on first use: the import itself loads nothing heavy."""

from importlib import import_module
from typing import Any

from streamdepth.version import __version__ as __version__


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return [*_homes(), "__version__"]
    home = _homes().get(name) if not name.startswith("__") else None
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted([*_homes(), "__version__"])


def _homes() -> dict[str, str]:
    """Public name -> module, from the stub file beside this one."""
    import ast
    from pkgutil import get_data

    stub = ast.parse(get_data(__name__, "__init__.pyi") or b"")
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names if alias.name != "__version__"}
