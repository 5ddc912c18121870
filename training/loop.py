"""The one training loop: order only. What a step computes belongs to the task."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch

from jobs.cluster.distributed import ALONE, Processes
from jobs.progress import Meter
from jobs.scratch import Scratch
from jobs.stage import Terminated, Termination
from training.adamw import AdamW
from training.randomness import seed_of

HISTORY_POINTS = 200
MAX_SKIPPED = 10


class Stateful(Protocol):
    """A model, an optimiser, or anything else whose state a checkpoint holds."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class NonFiniteLoss(ValueError):
    """The loss was not finite for too many steps in a row."""


def train(
    step: Callable[[int], Mapping[str, float | torch.Tensor]],
    *,
    steps: int,
    state: Mapping[str, Stateful],
    scratch: Scratch,
    seed: int,
    label: str,
    batch_size: int,
    checkpoint_seconds: float,
    log_seconds: float,
    processes: Processes = ALONE,
) -> list[dict[str, float]]:
    """Run `step(0) .. step(steps - 1)` and return the history, one row of averaged metrics a logging interval.

    `step` draws its batch, computes the loss, updates the weights and returns its metrics, `loss` among them. It must
    depend on nothing but its number and `state`: then a run that was killed anywhere and resumed from `scratch` is the
    unbroken run, bit for bit. The global generator, which dropout uses, is seeded from (seed, step) for that reason.

    Raises `NonFiniteLoss` after `MAX_SKIPPED` steps without a finite loss in a row (a step itself must not update the
    weights then, see `update`), and `Terminated` after SIGTERM, when the checkpoint is written. Of several `processes`
    each runs this loop, with metrics that are the same in all of them.
    """
    history: list[dict[str, float]] = []
    pending: list[dict[str, float]] = []
    start = lost = 0
    saved = scratch.load()
    if saved is not None:
        for name, part in state.items():
            part.load_state_dict(saved["state"][name])
        start, lost, history, pending = saved["step"], saved["lost"], saved["history"], saved["pending"]
        before = saved["processes"]
        changed = (
            "" if before == processes.world_size else f"; processes until then {before}, now {processes.world_size}"
        )
        print(f"{label}: resumes at step {start} of {steps}{changed}", flush=True)

    def save(done: int) -> None:
        parts = {name: part.state_dict() for name, part in state.items()}
        progress = {"step": done, "lost": lost, "history": history, "pending": pending}
        scratch.save({**progress, "state": parts, "processes": processes.world_size})

    every = max(1, steps // HISTORY_POINTS)
    meter = Meter(steps * batch_size, label=label, done=start * batch_size, seconds=log_seconds)
    saved_at = time.monotonic()
    with Termination() as termination:
        for number in range(start, steps):
            torch.manual_seed(seed_of(seed, label, number))
            pending.append({name: float(torch.as_tensor(value).detach()) for name, value in step(number).items()})
            lost = 0 if _is_finite(pending[-1]) else lost + 1
            if lost == MAX_SKIPPED:
                raise NonFiniteLoss(
                    f"{label}: loss or gradient was not finite for {lost} steps in a row, up to step {number}; "
                    "lower the learning rate or use precision fp32"
                )
            done = number + 1
            if done % every == 0 or done == steps:
                history.append({"step": done, **_average(pending)})
                pending = []
            meter.advance(batch_size, f"loss {history[-1].get('loss', math.nan):.4f}" if history else "")
            if processes.any(termination.requested):
                save(done)
                raise Terminated
            if time.monotonic() - saved_at >= checkpoint_seconds:
                save(done)
                saved_at = time.monotonic()
    if start < steps:
        save(steps)
    meter.close()
    return history


def update(
    losses: Iterable[torch.Tensor],
    optimizer: AdamW,
    *,
    clip: float,
    scaler: torch.amp.GradScaler,
    processes: Processes = ALONE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Backward, clip, step; returns loss and gradient norm. One that is not finite leaves the weights alone.

    losses: scalars that add up to the loss of the whole batch, over the micro-batches of this process and over all
    processes; each is made when the last one's graph is gone. fp16's scaler finds its scale by steps that overflow: those
    count as not finite like any other, and stop the training only when they last.
    """
    optimizer.zero_grad()
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    total = torch.zeros((), device=weights[0].device)
    for loss in losses:
        total = total + loss.detach()
        if torch.isfinite(loss):
            scaler.scale(loss).backward()
    total = processes.sum(total)
    norm = torch.tensor(math.nan)
    # Loss and norm are those of the whole batch, so that all processes take the same decision.
    if torch.isfinite(total):
        processes.sum_gradients(weights)
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(weights, clip)
        if torch.isfinite(norm):
            optimizer.step()
        scaler.update()
    return total, norm


def _average(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means over the steps whose metrics are all finite, and the share of the others as `skipped`."""
    kept = [row for row in rows if _is_finite(row)]
    means = {name: math.fsum(row[name] for row in kept) / len(kept) for name in (kept[0] if kept else {})}
    return {**means, "skipped": 1 - len(kept) / len(rows)}


def _is_finite(row: Mapping[str, float]) -> bool:
    return all(math.isfinite(value) for value in row.values())
