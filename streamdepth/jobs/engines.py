"""Where tasks run: in this process, or in processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Protocol, cast

from streamdepth.core.errors import StageError
from streamdepth.core.host import cores
from streamdepth.jobs.values import TaskResult
from streamdepth.jobs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from streamdepth.jobs.values import Task

    OnFrames = Callable[[str, int], None]

_JOIN_SECONDS = 5.0
_WAIT_SECONDS = 0.5


class Engine(Protocol):
    """Runs tasks on workers. Used by one thread."""

    @property
    def workers(self) -> int:
        """Number of tasks that run at the same time."""
        ...

    def submit(self, task: Task) -> None:
        """Start a task, or queue it until a worker is free."""
        ...

    def take(self) -> TaskResult:
        """The next finished task; blocks.

        Raises:
            StreamDepthError: a task failed, or its worker ended.
        """
        ...

    def close(self) -> None:
        """End all workers; running tasks are cancelled and leave no files. Idempotent."""
        ...


class InlineEngine:
    """One worker in this process. ``take`` runs the task.

    Args:
        on_frames: called with the worker's name and the number of frames of its task that are done, on any thread.
    """

    def __init__(self, *, threads: int | None = None, on_frames: OnFrames | None = None) -> None:
        report = on_frames or _ignore
        self._worker = Worker("worker 1", threads=threads, on_frames=lambda frames: report("worker 1", frames))
        self._tasks: deque[Task] = deque()

    @property
    def workers(self) -> int:
        return 1

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def take(self) -> TaskResult:
        return self._worker.run(self._tasks.popleft())

    def close(self) -> None:
        self._tasks.clear()
        self._worker.close()


class LocalEngine:
    """Worker processes on this machine, one session each.

    A process that is killed ends the run: the finished segments are kept.

    Args:
        workers: number of processes.
        threads: CPU threads of all sessions together; None = all cores.
        on_frames: as of :class:`InlineEngine`; called in ``take``.
    """

    def __init__(self, workers: int, *, threads: int | None = None, on_frames: OnFrames | None = None) -> None:
        self._on_frames = on_frames or _ignore
        self._queued: deque[Task] = deque()
        context = multiprocessing.get_context("spawn")
        share = max(1, (threads or cores()) // workers)
        self._processes: dict[Any, SpawnProcess] = {}  # by connection, of another class on Windows
        self._busy: set[Connection] = set()
        for number in range(1, workers + 1):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, f"worker {number}", share), name=f"worker {number}", daemon=True
            )
            process.start()
            theirs.close()
            self._processes[ours] = process

    @property
    def workers(self) -> int:
        return len(self._processes)

    def submit(self, task: Task) -> None:
        self._queued.append(task)
        self._start_queued()

    def take(self) -> TaskResult:
        while True:
            ready = wait(list(self._busy), _WAIT_SECONDS)  # short: on Windows, Ctrl-C does not end a wait
            for connection in [one for one in self._busy if one in ready]:
                found = self._receive(connection)
                if isinstance(found, BaseException):
                    raise found
                if isinstance(found, TaskResult):
                    self._busy.discard(connection)
                    self._start_queued()
                    return found

    def close(self) -> None:
        for connection, process in self._processes.items():
            connection.close()
            process.terminate()
        for process in self._processes.values():
            process.join(_JOIN_SECONDS)
            if process.is_alive():
                process.kill()
        self._processes.clear()
        self._busy.clear()

    def _start_queued(self) -> None:
        for connection, process in self._processes.items():
            if self._queued and connection not in self._busy:
                try:
                    connection.send(self._queued.popleft())
                except OSError:
                    raise _ended(process) from None
                self._busy.add(connection)

    def _receive(self, connection: Connection) -> TaskResult | BaseException | None:
        try:
            found = connection.recv()
        except (EOFError, OSError):
            raise _ended(self._processes[connection]) from None
        if isinstance(found, int):
            self._on_frames(self._processes[connection].name, found)
            return None
        return cast("TaskResult | BaseException", found)


def _ended(process: SpawnProcess) -> StageError:
    process.join(_JOIN_SECONDS)
    code = process.exitcode
    how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
    return StageError(f"{process.name} {how}; --resume continues with the segments that are not finished")


def _serve(connection: Connection, name: str, threads: int) -> None:
    """The loop of a worker process."""
    # Ctrl-C reaches the whole process group; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), name="parent", daemon=True).start()
    sending = threading.Lock()

    def report(frames: int) -> None:
        with sending:
            connection.send(frames)

    worker = Worker(name, threads=threads, on_frames=report)
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = connection.recv()
            answer: TaskResult | Exception
            try:
                answer = worker.run(task)
            except Exception as error:  # reported to the parent
                answer = error
            with sending:
                connection.send(answer)


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _ignore(worker: str, frames: int) -> None:
    pass
