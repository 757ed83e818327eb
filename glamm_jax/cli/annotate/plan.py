"""Hours, cost and bottleneck of an annotation, from the times that a small run measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glamm_jax.errors import ConfigError, GLaMMError
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.run_records import stage_times
from glamm_jax.grand.stages import StageGraph
from glamm_jax.report.text_table import text_table


@dataclass(frozen=True)
class PlanOptions:
    """What is planned.

    Attributes:
        images: to annotate.
        workers: processes of stages on the CPU, at the same time.
        devices: accelerators of the other stages, at the same time.
        worker_price: of an hour of a process; 0: not counted.
        device_price: of an hour of an accelerator with its host; 0: not counted.
    """

    images: int
    workers: int = 1
    devices: int = 1
    worker_price: float = 0.0
    device_price: float = 0.0

    def __post_init__(self) -> None:
        for name in ("worker_price", "device_price"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} = {getattr(self, name)}: must be a number from 0 on")


@dataclass(frozen=True)
class StagePlan:
    """The plan of a stage.

    Attributes:
        name: of the stage.
        seconds_per_image: of one worker; None: not measured.
        needs_device: whether it runs on accelerators.
        hours: of one worker.
        elapsed: hours with all workers, or accelerators, of the plan.
        cost: by the prices of the plan.
        peak_mib: most memory of a worker at its end; None: not measured.
    """

    name: str
    seconds_per_image: float | None
    needs_device: bool
    hours: float
    elapsed: float
    cost: float
    peak_mib: int | None


def plan_stages(folder: AnnotationRun, graph: StageGraph, options: PlanOptions) -> list[StagePlan]:
    """Return the plan of each stage.

    Args:
        folder: with measured times.
        graph: the stages.
        options: what is planned.

    Raises:
        GLaMMError: nothing was measured.
    """
    times = stage_times(folder, graph)
    plans = []
    for name, stage in graph.stages.items():
        seconds = times[name].seconds_per_image
        hours = (seconds or 0.0) * options.images / 3600
        count = options.devices if stage.needs_device else options.workers
        price = options.device_price if stage.needs_device else options.worker_price
        plans.append(
            StagePlan(
                name,
                seconds,
                stage.needs_device,
                hours,
                hours / count,
                hours * price,
                times[name].peak_mib,
            )
        )
    if not any(plan.seconds_per_image for plan in plans):
        raise GLaMMError(f"{folder.path}: no stage was measured yet; run it with --limit 100 first")
    return plans


def plan_text(folder: AnnotationRun, graph: StageGraph, options: PlanOptions) -> str:
    """Return a table of the stages, their sum, and the stage that takes longest.

    Args:
        folder: with measured times.
        graph: the stages.
        options: what is planned.

    Raises:
        GLaMMError: nothing was measured.
    """
    plans = plan_stages(folder, graph, options)
    has_prices = bool(options.worker_price or options.device_price)
    rows: list[Sequence[object]] = []
    for plan in plans:
        if plan.seconds_per_image is None:
            rows.append((plan.name, *[None] * (6 if has_prices else 5)))
            continue
        row = (
            plan.name,
            "device" if plan.needs_device else "CPU",
            f"{1000 * plan.seconds_per_image:.2f}",
            _hours(plan.hours),
            _hours(plan.elapsed),
        )
        cost = (f"{plan.cost:,.0f}",) if has_prices else ()
        rows.append((*row, *cost, plan.peak_mib))
    hours, elapsed = sum(x.hours for x in plans), sum(x.elapsed for x in plans)
    seconds = sum(plan.seconds_per_image or 0.0 for plan in plans)
    total = ("all", None, f"{1000 * seconds:.2f}", _hours(hours), _hours(elapsed))
    cost = (f"{sum(plan.cost for plan in plans):,.0f}",) if has_prices else ()
    peaks = [plan.peak_mib for plan in plans if plan.peak_mib is not None]
    rows.append((*total, *cost, max(peaks, default=None)))
    header = ("stage", "on", "ms/image", "hours", "elapsed")
    header = (*header, *(("cost",) if has_prices else ()), "MiB")
    longest = max(plans, key=lambda plan: plan.elapsed)
    lines = [
        f"{options.images:,} images, by the times measured in {folder.path}; elapsed: with "
        f"{options.workers} workers and {options.devices} devices, one stage after another",
        text_table(header, rows),
        f"bottleneck: {longest.name}, {longest.elapsed / elapsed:.0%} of the time; twice as many "
        f"{'devices' if longest.needs_device else 'workers'} save "
        f"{_hours(_saved(plans, longest))} hours",
    ]
    missing = [plan.name for plan in plans if plan.seconds_per_image is None]
    if missing:
        lines.append(f"not measured, and not in the sum: {', '.join(missing)}")
    return "\n".join(lines)


def _saved(plans: Sequence[StagePlan], longest: StagePlan) -> float:
    """The hours that twice as many of the bottleneck's workers save, in all stages that have them.

    Args:
        plans: of all stages.
        longest: the bottleneck.
    """
    same = (plan.elapsed for plan in plans if plan.needs_device == longest.needs_device)
    return sum(same) / 2


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.3f}"
