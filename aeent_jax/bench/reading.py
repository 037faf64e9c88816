"""Training on images in files beside training on the same in memory."""

import concurrent.futures
import contextlib
import functools
import math
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from aeent_jax import data
from aeent_jax.bench import machine, rounds, trainers
from aeent_jax.data import builders, sources
from aeent_jax.runtime import workdir
from aeent_jax.training import experiment

_ROUNDS = 9
_ENDLESS = 1_000_000  # epochs
_BUDGETS = {"memory": math.inf, "files": 0.0}

# Of reading alone: images of a batch, and batches that each thread reads.
_BATCH = 256
_BATCHES = 20
_READ_SEED = 1


class _Drawn(builders.Folder, skip_registration=True):
    """Blobs with noise, which are drawn as they are written."""

    name = "folder"

    def __init__(self, count: int, **kwargs):
        self._count = count
        super().__init__(**kwargs)

    def splits(self, root: str | pathlib.Path) -> dict[str, Iterator]:
        """Draws the training images, one at a time."""
        del root
        return {"train": self._draw_examples()}

    def _draw_examples(self) -> Iterator:
        size = self.spec.image_size
        no_mask = np.zeros((size, size), np.uint8)
        for i in range(self._count):
            id_ = f"{i:09d}"
            yield (
                id_,
                {
                    "id": id_,
                    "label": data.NORMAL,
                    "image": _draw(i, size, self.spec.channels),
                    "mask": no_mask,
                    "has_mask": False,
                },
            )


def _draw(seed: int, size: int, channels: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    grid = np.arange(size) / size
    y, x, width = rng.uniform(0.2, 0.8, 3)
    rows, columns = (np.exp(-(((grid - c) / width) ** 2)) for c in (y, x))
    noise = rng.integers(0, 8, (size, size, channels), np.uint8)
    blob = (200 * rows[:, None] * columns).astype(np.uint8)
    return noise + blob[..., None]


def write(folder: pathlib.Path, config: ml_collections.ConfigDict, count: int):
    """Draws a set and writes it as a prepared copy.

    Args:
      folder: an empty one.
      config: of image size and channels.
      count: how many images, all for training.
    """
    builders.write_splits(_Drawn(count, spec=_spec(config), data_dir=folder))


def load(
    folder: pathlib.Path, config: ml_collections.ConfigDict, budget: float
) -> data.Dataset:
    """Loads what `write` wrote.

    Args:
      folder: as in `write`.
      config: as in `write`.
      budget: bytes that the images may take in memory.

    Returns:
      The data set.
    """
    splits = builders.read(
        "folder", _spec(config), data_dir=folder, memory_budget=budget
    )
    return data.Dataset("folder", splits)


def _spec(config) -> sources.Spec:
    return sources.Spec(config.data.image_size, config.data.channels)


def measure(
    config: ml_collections.ConfigDict,
    images: int,
    steps: int,
    *,
    say: Callable[[str], None],
    own_processes: bool | None = None,
) -> dict[str, Any]:
    """Measures steps on images of both kinds, in turns.

    Every step takes the rows that are its turn, and those in files are read
    anew in each round: none is read before its round begins.

    Args:
      config: the resolved configuration.
      images: how many are drawn.
      steps: of one round.
      say: takes lines on what is going on.
      own_processes: whether each contender has one; None means on the CPU.

    Returns:
      What `--json` prints: `environment`, `size`, `entries` with startup, speed
      and most memory of each, `files_over_memory`, and images that are read per
      second by one thread and by all.

    Raises:
      ValueError: bad configuration or numbers.
    """
    if steps < 1 or images < config.train.batch_size:
        raise ValueError(
            f"--steps is {steps} and --images {images}; give at least 1 step"
            f" and the {config.train.batch_size} images of a batch."
        )
    experiment.check_config(config)
    config = config.copy_and_resolve_references()
    config.train.epochs = _ENDLESS
    if own_processes is None:
        own_processes = jax.default_backend() == "cpu"
    other_work = machine.OtherWork()
    with tempfile.TemporaryDirectory(prefix="aeent-bench-") as temporary:
        folder = pathlib.Path(temporary) / "copy"
        folder.mkdir()
        say(f"Writing {images} images ...")
        write(folder, config, images)
        say("Reading ...")
        threads = sorted({1, len(os.sched_getaffinity(0))})
        stored = load(folder, config, 0.0).splits["train"].images
        read = {str(n): _read_alone(stored, n) for n in threads}
        make = functools.partial(_start, config, folder, own_processes, say)
        with contextlib.ExitStack() as stack:
            contenders = {
                name: stack.enter_context(contextlib.closing(make(budget)))
                for name, budget in _BUDGETS.items()
            }
            say("Measuring steps ...")
            rates = rounds.take_turns(contenders, steps, _ROUNDS)
            entries = {
                name: {
                    "startup_seconds": contender.startup,
                    "images_per_second": statistics.median(rates[name]),
                    "peak_memory_bytes": contender.peak_memory(),
                    "rounds": rates[name],
                }
                for name, contender in contenders.items()
            }
    environment = workdir.environment() | machine.describe()
    return {
        "benchmark": "data",
        "environment": environment | {"other_work_cores": other_work.cores()},
        "size": {
            "images": images,
            "image_bytes": stored.nbytes,
            "image_size": config.data.image_size,
            "channels": config.data.channels,
            "batch_size": config.train.batch_size,
            "steps_per_round": steps,
        },
        "entries": entries,
        "files_over_memory": rounds.ratio(
            rates["files"], rates["memory"]
        )._asdict(),
        "read_images_per_second": read,
    }


def _start(config, folder, own_process, say, budget) -> rounds.Contender:
    say("Starting a contender ...")
    directory = folder.parent / "run"  # Where nothing is written.
    load_data = functools.partial(load, folder, config, budget)
    make = functools.partial(trainers.Fed, config, directory, load_data)
    cache = str(folder.parent / "xla")
    if own_process:
        devices = config.parallel.num_devices or jax.local_device_count()
        make = functools.partial(
            trainers.make_in_own_process, make, devices, cache
        )
    else:
        trainers.use_cache(cache)
    return rounds.Contender(make, own_process=own_process)


def _read_alone(images, threads: int) -> float:
    """Images per second of batches in random order, with nothing else done."""
    rng = np.random.default_rng(_READ_SEED)
    shape = (threads * _BATCHES, _BATCH)
    batches = rng.integers(0, len(images), shape)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()
        for _ in pool.map(images.__getitem__, batches):
            pass
        return batches.size / (time.perf_counter() - begun)


def format_reading(result: dict[str, Any]) -> str:
    """Formats what `measure` returns."""
    size, ratio = result["size"], result["files_over_memory"]
    environment = result["environment"]
    lines = [
        f"{size['images']} images of {size['image_size']} px and"
        f" {size['channels']} channel(s), {size['image_bytes'] / 1e6:.0f} MB;"
        f" batch {size['batch_size']}",
        f"{environment['cores']} core(s) of {environment['processor']}",
        "",
        "| images in | images/s | most memory, MB | start, s |",
        "|---|---|---|---|",
    ]
    for name, entry in result["entries"].items():
        peak = entry["peak_memory_bytes"]
        memory = "-" if peak is None else f"{peak / 1e6:.0f}"
        seconds = sum(entry["startup_seconds"].values())
        lines.append(
            f"| {name} | {entry['images_per_second']:.0f} | {memory} |"
            f" {seconds:.1f} |"
        )
    read = ", ".join(
        f"{speed:.0f} by {threads} thread(s)"
        for threads, speed in result["read_images_per_second"].items()
    )
    return "\n".join(
        [
            *lines,
            "",
            f"Files over memory: {ratio['median']:.2f} times"
            f" ({ratio['low']:.2f}-{ratio['high']:.2f}) in {_ROUNDS} rounds of"
            f" {size['steps_per_round']} steps.",
            f"Reading alone, images/s: {read}.",
        ]
    )
