"""Tasks on a Ray cluster: one actor per worker, one session per actor. Ray places, restarts and retries."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import MissingDependencyError, StageError, StreamDepthError, install_command
from streamdepth.jobs.worker import Worker

if TYPE_CHECKING:
    from streamdepth.jobs.values import Task, TaskResult

_RETRIES = 3


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
        actor = ray.remote(num_cpus=share, max_restarts=-1, max_task_retries=_RETRIES)(Worker)
        self._actors = [actor.remote(threads=max(1, int(share))) for _ in range(workers)]
        self._pool: Any = ActorPool(self._actors)

    @property
    def workers(self) -> int:
        return len(self._actors)

    def submit(self, task: Task) -> None:
        self._pool.submit(_run, task)

    def take(self) -> TaskResult:
        try:
            return self._pool.get_next_unordered()  # type: ignore[no-any-return]
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StreamDepthError):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayError as error:
            raise StageError(
                f"a Ray worker was lost {_RETRIES + 1} times ({type(error).__name__}); --resume continues with the "
                "segments that are not finished"
            ) from error

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors.clear()
        if self._started and self._ray.is_initialized():
            self._ray.shutdown()


def _run(actor: Any, task: Task) -> Any:
    return actor.run.remote(task)


def _cpus_per_actor(nodes: list[dict[str, Any]], workers: int) -> float:
    """CPUs that an actor reserves, so that all fit: a whole number, or a fraction of one."""
    cpus = [node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]]
    share = min(sum(cpus) / workers, max(cpus, default=1.0))
    return float(int(share)) if share >= 1 else share
