"""The step of IL-baseline on CIFAR-100 as a plain PyTorch program, for comparison with ours.

    .venv/bin/python -m pip install torch
    .venv/bin/python benchmarks/pytorch.py --feed loader

ResNet-32 with projection shortcuts, batch 128, crop and flip, SGD with momentum and weight decay,
balanced softmax, and in a later task the distillation of a teacher over 50 old classes: the recipe
of configs/cifar100.py. Random images, so that no data set is needed. Feeds:

  loader    as in the usual toolboxes: a Dataset that augments single images in worker processes
  resident  the images on the device, augmented there in batches: the upper limit for the step

Prints a JSON document like that of `python -m bsce_jax.bench`.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bsce_jax.cli import Parser
from bsce_jax.errors import UserError, exit_on_user_error

CLASSES, OLD, BATCH, PER_CLASS = 100, 50, 128, 50
MEAN, STD = 0.5, 0.25
Batch = tuple[torch.Tensor, torch.Tensor]


class Block(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        stride = 1 if channels == width else 2
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if channels != width:
            projection = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def resnet32() -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    ]
    channels = 16
    for width in (16, 32, 64):
        for _ in range(5):
            layers.append(Block(channels, width))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


class Images(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        padded = np.pad(self.images[index], ((0, 0), (4, 4), (4, 4)))
        row, column = torch.randint(9, (2,)).tolist()
        image = padded[:, row : row + 32, column : column + 32]
        image = image[:, :, ::-1] if torch.rand(()) < 0.5 else image
        tensor = torch.from_numpy(np.ascontiguousarray(image)).float()
        return (tensor / 255 - MEAN) / STD, int(self.labels[index])


def from_loader(
    images: np.ndarray, labels: np.ndarray, device: torch.device, workers: int
) -> Iterator[Batch]:
    loader = torch.utils.data.DataLoader(
        Images(images, labels),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    while True:
        for batch, target in loader:
            yield batch.to(device, non_blocking=True), target.to(device, non_blocking=True)


def from_memory(images: np.ndarray, labels: np.ndarray, device: torch.device) -> Iterator[Batch]:
    pixels = torch.from_numpy(images).to(device)
    targets = torch.from_numpy(labels).to(device)
    reach = torch.arange(32, device=device)
    while True:
        for index in torch.randperm(len(targets), device=device).split(BATCH):
            if len(index) < BATCH:
                continue
            padded = F.pad(pixels[index], (4, 4, 4, 4))
            corner = torch.randint(9, (2, BATCH, 1), device=device)
            columns = corner[1] + reach
            mirror = torch.rand(BATCH, 1, device=device) < 0.5
            columns = torch.where(mirror, columns.flip(1), columns)
            rows = (corner[0] + reach)[:, None, :, None]
            sample = torch.arange(BATCH, device=device)[:, None, None, None]
            channel = torch.arange(3, device=device)[None, :, None, None]
            crop = padded[sample, channel, rows, columns[:, None, None, :]]
            yield (crop.float() / 255 - MEAN) / STD, targets[index]


def measure(
    batches: Iterator[Batch],
    device: torch.device,
    later: bool,
    seconds: float,
    bfloat16: bool,
    channels_last: bool,
) -> dict[str, Any]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = resnet32().to(device, memory_format=layout).train()
    teacher = resnet32().to(device, memory_format=layout).eval() if later else None
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9, weight_decay=5e-4)
    counts = torch.full((CLASSES,), 20.0 if later else 500.0, device=device)
    counts[OLD:] = 500.0
    prior = counts.log()

    def step() -> None:
        images, labels = next(batches)
        images = images.to(memory_format=layout)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits = model(images)
            with torch.no_grad():
                past = teacher(images) if teacher is not None else None
        loss = F.cross_entropy(logits.float() + prior, labels)
        if past is not None:
            ours = F.log_softmax(logits[:, :OLD].float() / 2, 1)
            theirs = F.log_softmax(past[:, :OLD].float() / 2, 1)
            loss = loss + 4 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    milliseconds = 1e3 * _time(step, device, seconds)
    return {
        "method": "il_baseline",
        "later_task": later,
        "batch": BATCH,
        "milliseconds": milliseconds,
        "images_per_second": 1e3 * BATCH / milliseconds,
    }


def _time(step: Callable[[], None], device: torch.device, seconds: float) -> float:
    """Return the median seconds of a step over groups of steps, synchronising after each group."""
    group = 50 if device.type == "cuda" else 3
    times: list[float] = []
    while len(times) < 4 or sum(times[1:]) < seconds:
        start = time.perf_counter()
        for _ in range(group):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) / group


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--feed", choices=("loader", "resident"), default="loader")
    parser.add_argument("--workers", type=int, help="of the loader, default: 4")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--channels_last", action="store_true")
    args = parser.read()
    if args.workers is not None and args.feed != "loader":
        raise UserError(f"--workers={args.workers} is for --feed=loader")
    if args.workers is None:
        args.workers = 4
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (CLASSES * PER_CLASS, 3, 32, 32), np.uint8)
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    steps = []
    for later in (False, True):
        batches = (
            from_loader(images, labels, device, args.workers)
            if args.feed == "loader"
            else from_memory(images, labels, device)
        )
        steps.append(
            measure(batches, device, later, args.seconds, args.bfloat16, args.channels_last)
        )
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    print(json.dumps({**vars(args), "torch": torch.__version__, "device": name, "steps": steps}))


if __name__ == "__main__":
    exit_on_user_error(main)
