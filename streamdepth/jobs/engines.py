"""Where tasks run: in this process, in processes of this machine, or in actors of a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Protocol, cast

from streamdepth.core.errors import MissingDependencyError, StageError, StreamDepthError, install_command
from streamdepth.core.host import cores
from streamdepth.jobs import TaskResult
from streamdepth.jobs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from streamdepth.jobs import Task

    OnFrames = Callable[[str, int], None]

_JOIN_SECONDS = 5.0
_WAIT_SECONDS = 0.5
_RAY_RETRIES = 3


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
        report = on_frames or (lambda _worker, _frames: None)
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
        self._on_frames = on_frames or (lambda _worker, _frames: None)
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


class RayEngine:
    """Actors on a Ray cluster. Every machine needs streamdepth, the input and the folder of the outputs.

    Ray restarts an actor whose process or machine is lost, on any machine, and runs its task again.

    Args:
        workers: number of actors.
        address: of the cluster, as ``ray.init`` takes it; empty = ``RAY_ADDRESS``, else a cluster of this machine.

    Raises:
        MissingDependencyError: Ray is not installed.
        StageError: the cluster cannot be reached.
    """

    def __init__(self, workers: int, *, address: str = "") -> None:
        try:
            import ray
            from ray.util import ActorPool
        except ImportError as error:
            raise MissingDependencyError(f"--engine ray needs Ray ({error}); {install_command('ray')}") from error
        self._ray: Any = ray
        self._started = not ray.is_initialized()
        if self._started:
            try:
                ray.init(address=address or None, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise StageError(
                    f"the Ray cluster {address or 'of this machine'} cannot be used ({error}); check --ray-address"
                ) from error
        share = _cpus_per_actor(self._ray.nodes(), workers)
        actor = ray.remote(num_cpus=share, max_restarts=-1, max_task_retries=_RAY_RETRIES)(Worker)
        self._actors = [actor.remote(threads=max(1, int(share))) for _ in range(workers)]
        self._pool: Any = ActorPool(self._actors)

    @property
    def workers(self) -> int:
        return len(self._actors)

    def submit(self, task: Task) -> None:
        self._pool.submit(lambda actor, task: actor.run.remote(task), task)

    def take(self) -> TaskResult:
        try:
            return self._pool.get_next_unordered()  # type: ignore[no-any-return]
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StreamDepthError):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayError as error:
            raise StageError(
                f"a Ray worker was lost {_RAY_RETRIES + 1} times ({type(error).__name__}); --resume continues with the "
                "segments that are not finished"
            ) from error

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors.clear()
        if self._started and self._ray.is_initialized():
            self._ray.shutdown()


def _cpus_per_actor(nodes: list[dict[str, Any]], workers: int) -> float:
    """CPUs that an actor reserves, so that all fit: a whole number, or a fraction of one."""
    cpus = [node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]]
    share = min(sum(cpus) / workers, max(cpus, default=1.0))
    return float(int(share)) if share >= 1 else share
