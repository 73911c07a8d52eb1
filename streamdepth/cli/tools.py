"""The commands beside a run: ``models``, ``verify``, ``build``, ``bench``, ``cameras``, ``doctor`` and ``styles``."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import typer

from streamdepth.cli.process import progress_shown, say, table
from streamdepth.core.errors import OutputExistsError, UsageError
from streamdepth.core.frame import Sense

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamdepth.bench import BenchReport
    from streamdepth.config.settings import (
        BenchConfig,
        BuildConfig,
        ModelConfig,
        PullConfig,
        Settings,
        StylesConfig,
        VerifyConfig,
    )
    from streamdepth.models.catalog import ModelDetails, ModelEntry


def list_models() -> None:
    """List the known models, and which of them are in the cache."""
    from streamdepth.models.catalog import list_models as catalogue

    entries = catalogue()
    if sys.stdout.isatty():
        for line in entry_lines(entries, shutil.get_terminal_size().columns):
            typer.echo(line)
        typer.echo(f"\nstreamdepth run test: --show --model {entries[1].name}")
        return
    rows = [
        (
            entry.name,
            entry.sense.value if entry.sense else "unknown",
            f"{_unit(entry)}, {entry.speed_class}",
            entry.licence or "not stated",
            " ".join(f"{dtype}:{size}" for dtype, size in entry.sizes_mb.items()),
            " ".join(entry.cached) or ("in the package" if entry.kind == "built-in" else ""),
        )
        for entry in entries
    ]
    table(("model", "means", "good for", "licence", "MB by dtype", "on this machine"), rows)


def entry_lines(entries: Sequence[ModelEntry], width: int) -> list[str]:
    """``models list`` for a terminal of ``width`` columns: a table, or two lines for each model where that is wider.

    Names and words are never cut.
    """
    rows = [("model", "depth", "speed", "licence", "MB", "cached")]
    for entry in entries:
        sizes = sorted(entry.sizes_mb.values())
        shown = f"{sizes[0]}-{sizes[-1]}" if len(sizes) > 1 else "".join(map(str, sizes))
        here = " ".join(entry.cached) or ("in the package" if entry.kind == "built-in" else "")
        rows.append((entry.name, _unit(entry), entry.speed_class, entry.licence or "not stated", shown, here))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) <= width:
        return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines = []
    for name, unit, speed, licence, size, here in rows[1:]:
        facts = (unit, speed, licence, f"{size} MB" if size else "", f"cached: {here}" if here else "")
        lines += [name, "    " + ", ".join(fact for fact in facts if fact)]
    return lines


def _unit(entry: ModelEntry) -> str:
    if entry.sense is None:
        return "unknown"
    return "metric" if entry.sense is Sense.METRIC_M else "relative"


def show(config: ModelConfig) -> None:
    """Show everything that is known of a model, and where each fact comes from."""
    from streamdepth.inference.providers import likely
    from streamdepth.models.catalog import show_model

    details = show_model(config.name, dtype=config.dtype, revision=config.revision, provider=likely(config.provider))
    if config.as_json:
        typer.echo(json.dumps(_plain(details), indent=2))
    else:
        table(("", "", "from"), _rows(details), title=details.name)


def _plain(details: ModelDetails) -> dict[str, Any]:
    return {
        "name": details.name,
        "revision": details.revision,
        "licence": details.licence,
        "variants": [asdict(variant) for variant in details.variants],
        "chosen": details.chosen,
        "spec": details.spec.to_dict() if details.spec is not None else None,
        "notes": list(details.notes),
    }


def _rows(details: ModelDetails) -> list[tuple[str, str, str]]:
    rows = [("revision", details.revision, ""), ("licence", details.licence or "not stated", "")]
    for variant in details.variants:
        size = f"{variant.size_bytes / 1e6:.1f} MB" if variant.size_bytes else "?"
        here = "here" if variant.local else "on the Hub"
        chosen = ", chosen" if variant.dtype == details.chosen else ""
        rows.append((f"dtype {variant.dtype}", f"{size}, {here}{chosen}", variant.file))
    if details.spec is not None:
        origins = details.spec.origins
        for key, value in details.spec.to_dict().items():
            if key in ("name", "revision", "licence", "notes", "origins", "dtype") or value in (None, "", [], {}, 0):
                continue
            if key == "head":
                value = {name: one for name, one in value.items() if one}
            shown = json.dumps(value) if isinstance(value, dict | list) else str(value)
            rows.append((key, shown, origins.get(key, "")))
    if details.spec is not None and details.spec.source == "built-in":
        rows += _builtin_rows()
    rows += [("note", note, "") for note in details.notes]
    return [row for row in rows if row[1]]


def _builtin_rows() -> list[tuple[str, str, str]]:
    """Hash, measured accuracy, and the limits its card states."""
    from importlib.resources import files

    from streamdepth.models.locate import builtin_record

    record = builtin_record()
    card = (files("streamdepth.models.builtin") / "MODEL_CARD.md").read_text(encoding="utf-8")
    limits = card.partition("## Limits\n")[2].partition("\n## ")[0]
    rows = [("sha256", str(record["sha256"]), "")]
    for name, (abs_rel, delta1) in record["accuracy"].items():
        rows.append((f"accuracy {name}", f"AbsRel {abs_rel:.3f}, delta1 {delta1:.3f}", "benchmarks/accuracy.py"))
    rows += [
        ("limit", " ".join(line.split()), "") for line in re.split(r"^- ", limits, flags=re.MULTILINE) if line.strip()
    ]
    return rows


def pull(config: PullConfig) -> None:
    """Download a Hub model, check every file, and repair damaged ones."""
    from streamdepth.cli.process import bytes_bar
    from streamdepth.inference.providers import likely
    from streamdepth.models.catalog import pull as fetch

    with bytes_bar(quiet=config.quiet) as downloading:
        pulled = fetch(
            config.name,
            dtype=config.dtype,
            revision=config.revision,
            provider=likely(config.provider),
            force=config.force,
            progress=downloading,
        )
    for path in pulled.files:
        typer.echo(path)


def verify(config: VerifyConfig) -> None:
    """Check that a model's depth is finite and not constant, and how far it is from a reference, e.g. q8 from fp32."""
    from streamdepth.image.verify import verify as compare

    report = compare(
        config.checked,
        reference=config.reference,
        images=config.images or None,
        dtype=config.dtype,
        reference_dtype=config.reference_dtype,
        revision=config.revision,
        size=config.size,
        sense=config.sense,
        provider=config.provider,
    )
    if config.as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        table(report.COLUMNS, report.rows(), title=report.title)
    if not report.ok:
        raise typer.Exit(1)


def build(config: BuildConfig) -> None:
    """Build TensorRT engines and graphs ahead of time. The first build takes minutes."""
    from streamdepth.cli.process import bytes_bar
    from streamdepth.core.clock import SystemClock
    from streamdepth.inference.build import BuildRequest, build_first
    from streamdepth.inference.build import build as make
    from streamdepth.inference.model import DepthModel

    images = tuple(_size(text) for text in config.image_size)
    say_built = partial(say, quiet=config.quiet)
    with bytes_bar(quiet=config.quiet) as downloading:
        options = config.model_options(provider=config.target, progress=downloading)
        spec = DepthModel(config.built, **options).spec
    if config.target == "tensorrt":
        build_first(BuildRequest(spec, images=images, batch=config.batch), SystemClock(), say_built)
    made = make(spec, config.target, images=images, batch=config.batch, progress=say_built)
    table(("", "where"), [(one.name, str(one.path)) for one in made])


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise UsageError(f"image-size: {text!r} is not a size; give WxH, e.g. 1920x1080")
    return int(found[1]), int(found[2])


def bench(config: BenchConfig) -> None:
    """Measure providers, dtypes, sizes and batches on this machine, recommend one, and show where the time goes."""
    from streamdepth.bench import bench as measure
    from streamdepth.bench import compare as against
    from streamdepth.bench import load_report

    before = load_report(config.compare) if config.compare is not None else None
    report = measure(
        config.source,
        config.model,
        providers=config.providers,
        dtypes=config.dtypes,
        sizes=config.sizes,
        batches=config.batches,
        frames=config.max_frames,
        seconds=config.seconds,
        threads=config.threads,
        sense=config.sense,
        revision=config.revision,
        progress=say if progress_shown(config.quiet) else None,
    )
    compared = against(before, report) if before is not None else ()
    if config.as_json:
        content = report.to_dict()
        if before is not None:
            content["compared"] = [
                {"name": c.name, "before_ms": c.before_ms, "now_ms": c.now_ms, "ratio": round(c.ratio, 3)}
                for c in compared
            ]
        typer.echo(json.dumps(content, indent=2))
        return
    _print(report)
    if before is not None:
        table(
            ("", "before, ms", "now, ms", "times as fast", ""),
            [(c.name, f"{c.before_ms:.2f}", f"{c.now_ms:.2f}", f"{c.ratio:.2f}", c.outcome) for c in compared],
            title=f"compared with {config.compare}",
            headings=True,
        )


def _print(report: BenchReport) -> None:
    table(
        ("provider", "dtype", "size", "batch", "ms / frame", "CPU ms / frame", "correlation", ""),
        [
            (
                run.provider,
                run.dtype,
                run.size,
                str(run.batch),
                _figure(run.frame_ms, ".2f"),
                _figure(run.cpu_ms, ".2f"),
                _figure(run.correlation, ".5f"),
                run.note,
            )
            for run in report.runs
        ],
        title=f"{report.model}, {', '.join(value for value in report.machine.values() if value)}",
        headings=True,
    )
    rows = [(stage.name, f"{stage.wall_ms:.2f}", f"{stage.cpu_ms:.2f}") for stage in report.stages]
    if report.whole is not None:
        rows.append(("other", "", f"{report.whole.elsewhere_cpu_ms:.2f}"))
        rows.append(("whole run", f"{1000 / report.whole.fps:.2f}" if report.whole.fps else "-",
                     f"{report.whole.cpu_ms:.2f}"))  # fmt: skip
    table(("stage", "ms / frame", "CPU ms / frame"), rows, title=report.source, headings=True)
    if report.whole is not None:
        whole = report.whole
        typer.echo(
            f"{whole.fps:.1f} fps, {whole.efficiency:.0%} of the {whole.bound_fps:.1f} fps that decoding, model and "
            f"encoding alone allow; cores idle {whole.idle:.0%}"
        )
    if report.propagating is not None:
        every = report.propagating.model_every
        typer.echo(f"{report.propagating.fps:.1f} fps with --model-every {every}, depth of the other frames propagated")
    for note in report.notes:
        say(note)
    if report.recommended is not None:
        typer.echo(f"recommended: {report.recommended.options}")


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


_SCENE, _FRAME = "test:?size=640x480", 45


def cameras() -> None:
    """List cameras with their names and modes."""
    from streamdepth.sources.cameras import list_cameras

    found = list_cameras()
    if not found:
        permission = ", and check that you may read /dev/video*" if sys.platform == "linux" else ""
        typer.echo(f"no cameras found; connect one{permission}", err=True)
        raise typer.Exit(1)
    table(
        ("index", "name", "path", "modes"),
        [
            (str(camera.index), camera.name, camera.path, "; ".join(map(str, camera.modes)) or camera.note)
            for camera in found
        ],
    )


def doctor(config: Settings) -> None:
    """Show versions, providers, encoders, display and cameras. Exit code 1 if a requirement is missing."""
    from streamdepth.doctor import examine

    findings = examine()
    if config.as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        table(
            ("", "", "found", "what helps"),
            [("MISSING" if not f.ok else "ok" if f.there else "-", f.topic, f.found, f.hint) for f in findings],
        )
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def styles(config: StylesConfig) -> None:
    """List the palettes, or show them on a depth image."""
    from streamdepth.colorize.palettes import catalogue_names, listed_names

    preview = config.preview
    if preview is None:
        for name in (*listed_names(), *(catalogue_names() if config.everything else ())):
            typer.echo(name)
        return
    if preview.suffix.lower() != ".png":
        raise UsageError(f"{preview}: the preview is a PNG; end its name with .png")
    if preview.exists() and not config.overwrite:
        raise OutputExistsError(f"{preview}: already exists; --overwrite replaces it")
    from streamdepth.colorize.images import preview as paint
    from streamdepth.colorize.images import write_preview
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.sources.pattern import PatternSource

    scene = PatternSource.from_text(_SCENE)
    scene.open()
    with DepthEstimator() as estimator:
        frame = next(islice(scene.frames(), _FRAME, None))
        (depth,) = estimator([frame])
    scene.close()
    names = catalogue_names() if config.everything else None
    write_preview(preview, paint(names, depth=depth.data, sense=depth.sense, image=frame.to_rgb()))
