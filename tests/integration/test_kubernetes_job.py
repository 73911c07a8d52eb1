"""``configs/kubernetes-job.yaml``: valid for Kubernetes, and its command valid for streamdepth."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from streamdepth.config import RunConfig
from tests.support import need
from tests.support.paths import ROOT

MANIFEST = ROOT / "configs" / "kubernetes-job.yaml"


@pytest.fixture
def job() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    return content


def test_it_follows_the_schema_of_kubernetes(job: dict[str, Any]) -> None:
    """The schemas of Kubernetes itself, without unknown fields; a misspelt field is found."""
    kubernetes = need.module("kubernetes_validate", "pip install kubernetes-validate")
    kubernetes.validate(job, "1.31", strict=True)
    job["spec"]["completionmode"] = job["spec"].pop("completionMode")
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(job, "1.31", strict=True)


def test_each_pod_processes_its_share(job: dict[str, Any]) -> None:
    """The arguments are options of ``run``, and the number of shards is that of the pods."""
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    command, source, *options = container["args"]
    assert (container["command"], command, source) == (["streamdepth"], "run", "/clips")
    given: dict[str, Any] = {"sources": (source,)}
    for option in options:
        name, _, value = option.removeprefix("--").partition("=")
        given[name] = value.replace("$(JOB_COMPLETION_INDEX)", "3") or True
    config = RunConfig.load(given, None, command="run")
    assert config.in_segments
    assert config.shard_of == slice(3, None, spec["completions"])
    assert all("{name}" in output for output in (*config.output, *config.data))
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert all(any(output.startswith(path) for path in mounted) for output in (*config.output, *config.data, source))
