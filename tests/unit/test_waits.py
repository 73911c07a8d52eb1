"""No wait without a limit: on Windows, Ctrl-C does not end a wait, so that each has to end by itself."""

from __future__ import annotations

import ast
import threading
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from streamdepth.cli import process
from streamdepth.core.queues import AbortableCondition, InterruptibleCondition
from streamdepth.net.calls import AbandonableCalls, InterruptedCall
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


PACKAGE = ROOT / "streamdepth"
_WAITS = ("wait", "join", "acquire")


def _untimed(source: str) -> list[int]:
    """Lines with a wait that has no argument. Coroutines are awaited: an event loop takes Ctrl-C itself."""
    tree = ast.parse(source)
    awaited = {id(call) for node in ast.walk(tree) if isinstance(node, ast.Await) for call in ast.walk(node)}
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _WAITS
        and not (node.args or node.keywords)
        and id(node) not in awaited
    ]


def test_the_package_has_no_wait_without_a_limit() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if "training" not in path.parts]
    assert len(files) > 100
    found = {path.relative_to(PACKAGE).as_posix(): _untimed(path.read_text(encoding="utf-8")) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("event.wait()", [1]),
        ("event.wait(0.5)", []),
        ("thread.join()\nlock.acquire()", [1, 2]),
        ("', '.join(names)", []),
        ("async def f():\n    await event.wait()", []),
        ("async def f():\n    await asyncio.wait_for(event.wait(), 3)", []),
    ],
)
def test_the_check_finds_them(source: str, lines: list[int]) -> None:
    assert _untimed(source) == lines


@pytest.mark.parametrize("kind", [InterruptibleCondition, AbortableCondition])
def test_conditions_wait_in_slices(kind: type[InterruptibleCondition], monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float | None] = []

    def wait(_: threading.Condition, timeout: float | None = None) -> bool:
        waited.append(timeout)
        return False

    monkeypatch.setattr(threading.Condition, "wait", wait)
    condition = kind()
    with condition:
        condition.wait_for(lambda: len(waited) == 3)
        assert not condition.wait_for(lambda: False, timeout=0.0)
    assert waited[:3] == [0.5, 0.5, 0.5]


def test_a_page_without_a_source_waits_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float | None] = []

    def wait(_: threading.Event, timeout: float | None = None) -> bool:
        waited.append(timeout)
        if len(waited) == 3:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(threading.Event, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        process.wait_for_interrupt()
    assert waited == [0.5, 0.5, 0.5]


class TestOtherSystems:
    """Modules load where POSIX is not: names that Windows lacks are used in functions only."""

    MODULES = frozenset({"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"})
    NAMES = frozenset({"mkfifo", "getuid", "geteuid", "killpg", "SIGSTOP", "SIGCONT", "SIGKILL", "SIGALRM", "openpty"})

    def found(self, source: str) -> list[int]:
        """Lines that are run on import and need POSIX."""
        lines: list[int] = []

        def visit(node: ast.AST) -> None:
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names} & self.MODULES
            elif isinstance(node, ast.ImportFrom):
                names = {node.module or ""} & self.MODULES
            elif isinstance(node, ast.Attribute):
                names = {node.attr} & self.NAMES
            if names:
                lines.append(getattr(node, "lineno", 0))
            inside = node.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) else ()
            for child in ast.iter_child_nodes(node):
                if inside != child and child not in (inside if isinstance(inside, list) else ()):
                    visit(child)

        visit(ast.parse(source))
        return lines

    def test_package_and_tests_load(self) -> None:
        files = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
        found = {path.relative_to(ROOT).as_posix(): self.found(path.read_text(encoding="utf-8")) for path in files}
        assert {name: lines for name, lines in found.items() if lines} == {}

    @pytest.mark.parametrize(
        ("source", "lines"),
        [
            ("import fcntl", [1]),
            ("def f():\n    import fcntl\n    os.mkfifo('x')", []),
            ("@skipif(os.getuid() == 0)\ndef f(): ...", [1]),
            ("KILL = signal.SIGKILL", [1]),
            ("class A:\n    a = signal.SIGSTOP\n    def f(self): os.killpg(1)", [2]),
            ("f = lambda: os.getuid()", []),
        ],
    )
    def test_the_check_finds_them(self, source: str, lines: list[int]) -> None:
        assert self.found(source) == lines


def test_detached_calls() -> None:
    detached = AbandonableCalls("test")
    assert detached.call(lambda: 5, dispose=print) == 5
    with pytest.raises(ZeroDivisionError):
        detached.call(lambda: 1 // 0, dispose=print)
    gate, disposed = threading.Event(), threading.Event()

    def slow() -> int:
        gate.wait(20)
        return 1

    with pytest.raises(TimeoutError):
        detached.call(slow, dispose=lambda _: disposed.set(), timeout_seconds=0.01)
    gate.set()
    assert disposed.wait(2)
    finished: list[int] = []
    assert list(detached.iterate(iter(range(100)), depth=3, finished=lambda: finished.append(1))) == list(range(100))
    assert list(islice(detached.iterate(iter(range(100)), depth=1, finished=lambda: finished.append(2)), 2)) == [0, 1]

    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("x")

    items = detached.iterate(broken(), depth=1, finished=lambda: finished.append(3))
    assert next(items) == 1
    with pytest.raises(KeyError):
        next(items)
    detached.interrupt()
    with pytest.raises(InterruptedCall):
        detached.call(slow, dispose=print)
    assert list(detached.iterate(iter([1]), depth=1, finished=lambda: finished.append(4))) == []
    assert finished.count(1) == finished.count(3) == finished.count(4) == 1
