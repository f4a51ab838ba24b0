"""How long FreqKD's loss takes beside a straightforward version of the published formula, and in a step of training.

Ratios of medians over rounds in which the rivals take turns, forward and backward. `loss_ratio_*`: mode `symmetric`, an
exact projector, over the published formula as one would write it down; features lie in memory as transformers give them
and as convolutions do, the worse of both is reported. `step_ratio`: a step with that loss over one with full-band MSE.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from system.backbones.loading import DINOV2
from system.backbones.vit import load_vit
from system.freqkd.distiller import DistillConfig, Distiller
from system.freqkd.losses import RECIPES, LossConfig, distillation_loss

# Pictures, channels, rows, columns, blocks: 640x512 and 322x238 pixels in patches of 14.
VIT_L, VIT_S = (1, 1024, 36, 46, 5), (4, 384, 17, 23, 4)


def published_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], cutoff: float = 0.5) -> Tensor:
    """The formula in its own order of steps, for [B, C, H, W] of each block."""
    total = torch.zeros(())
    for ours, theirs in zip(student, teacher, strict=True):
        height, width = ours.shape[2:]
        rows, columns = max(1, int(height * cutoff / 2)), max(1, int(width * cutoff / 2))
        mask = torch.zeros(height, width)
        mask[height // 2 - rows : height // 2 + rows, width // 2 - columns : width // 2 + columns] = 1
        bands = []
        for features in (ours, theirs):
            centred = features - features.mean(dim=(2, 3), keepdim=True)
            spectrum = torch.fft.fftshift(
                torch.fft.fft2(torch.nn.functional.normalize(centred, dim=1), norm="ortho"), dim=(-2, -1)
            )
            bands.append(
                [
                    torch.fft.ifft2(torch.fft.ifftshift(spectrum * kept, dim=(-2, -1)), norm="ortho").real
                    for kept in (mask, 1 - mask)
                ]
            )
        low = torch.nn.functional.mse_loss(bands[0][0], bands[1][0])
        high = torch.nn.functional.mse_loss(bands[0][1].abs().log1p(), bands[1][1].abs().log1p())
        total = total + low + 0.1 * high
    return total


def seconds_each(rivals: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median of each, taken in turns after a first round that does not count."""
    taken: list[list[float]] = [[] for _ in rivals]
    for _ in range(rounds + 1):
        for rival, times in zip(rivals, taken, strict=True):
            started_s = time.perf_counter()
            rival()
            times.append(time.perf_counter() - started_s)
    return [statistics.median(times[1:]) for times in taken]


def loss_ratio(shape: tuple[int, int, int, int, int], channels_last: bool, rounds: int) -> tuple[float, list[float]]:
    """(ours over the published, seconds of both)."""
    pictures, channels, rows, columns, blocks = shape
    generator = torch.Generator().manual_seed(0)

    def maps() -> list[Tensor]:
        found = []
        for _ in range(blocks):
            features = torch.randn(pictures, rows * columns, channels, generator=generator)
            if channels_last:
                found.append(features.transpose(1, 2).unflatten(2, (rows, columns)))
            else:
                found.append(features.view(pictures, channels, rows, columns))
        return found

    student, teacher = [features.requires_grad_() for features in maps()], maps()
    symmetric = _recipe("symmetric")
    ours, published = seconds_each(
        [
            lambda: torch.autograd.grad(distillation_loss(student, teacher, symmetric).total, student),
            lambda: torch.autograd.grad(published_loss(student, teacher), student),
        ],
        rounds,
    )
    return ours / published, [ours, published]


def step_ratio(rounds: int, batch_size: int) -> float:
    """A distillation step with the `symmetric` loss over one with full-band MSE; the teacher's features are given."""
    pictures = torch.randint(0, 256, (batch_size, 238, 322, 3), dtype=torch.uint8)
    teacher = [torch.randn(batch_size, 384, 17, 23) for _ in DistillConfig().blocks]
    distillers = [
        Distiller(load_vit(DINOV2), DistillConfig(loss=_recipe(name), batch_size=batch_size), 1000)
        for name in ("symmetric", "mse")
    ]
    ours, full_band = seconds_each(
        [lambda d=distiller: d.step(pictures, teacher) for distiller in distillers],  # type: ignore[misc]
        rounds,
    )
    return ours / full_band


def _recipe(name: str) -> LossConfig:
    config = RECIPES[name]
    assert config is not None
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--step-rounds", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures: dict[str, float | list[float]] = {}
    for name, shape in (("vit_l", VIT_L), ("vit_s", VIT_S)):
        found = [loss_ratio(shape, channels_last, arguments.rounds) for channels_last in (True, False)]
        worse = max(found, key=lambda ratio_and_times: ratio_and_times[0])
        figures[f"loss_ratio_{name}"] = round(worse[0], 4)
        figures[f"loss_seconds_{name}"] = [round(seconds, 4) for seconds in worse[1]]
    if arguments.step_rounds:
        figures["step_ratio"] = round(step_ratio(arguments.step_rounds, arguments.batch_size), 4)
    print(json.dumps(figures | {"threads": arguments.threads}))


if __name__ == "__main__":
    main()
