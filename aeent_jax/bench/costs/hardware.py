"""What named hardware could do at best, by its published figures.

Figures of one device, looked up in November 2026:

  v5e   bf16 197 TFLOP/s, memory 16 GB at 819 GB/s; "TPU v5e", Google Cloud,
        https://docs.cloud.google.com/tpu/docs/v5e
  H200  TF32 494.7 TFLOP/s without sparsity, memory 141 GB at 4.8 TB/s; of
        NVIDIA's SXM module, as quoted by
        https://glennklockwood.com/garden/processors/h100 and MLPerf's system
        descriptions

The arithmetic is the one that JAX chooses there for float32 convolutions and
products when nobody asks for more precision, as the networks here do not.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Devices of one kind.

    Attributes:
      devices: how many.
      flops: peak of one device, in FLOP a second.
      bandwidth: of its memory, in bytes a second.
      memory: in bytes.
    """

    devices: int
    flops: float
    bandwidth: float
    memory: float


HARDWARE = {
    "v5e-256": Hardware(256, 197e12, 819e9, 16e9),
    "8xh200": Hardware(8, 494.7e12, 4.8e12, 141e9),
}


@dataclasses.dataclass(frozen=True)
class Member:
    """What one run costs that has a device for itself.

    Attributes:
      flops: of a step.
      num_bytes: that a step reads and writes.
      memory: in bytes, but for the images.
      images: bytes of the training split, which members share.
      steps: of the whole training.
    """

    flops: float
    num_bytes: float
    memory: float
    images: float
    steps: int


def check(names: Sequence[str], members: Sequence[int]) -> None:
    """Refuses unknown hardware and empty populations.

    Args:
      names: of hardware.
      members: of populations.

    Raises:
      ValueError: a name that is not known, or a number below 1.
    """
    for name in names:
        if name not in HARDWARE:
            raise ValueError(
                f"--hardware has {name!r}; choose among {', '.join(HARDWARE)}."
            )
    for count in members:
        if count < 1:
            raise ValueError(
                f"--members has {count}, but a population has at least 1."
            )


def estimate(
    name: str, member: Member, count: int, share: float | None
) -> dict[str, Any]:
    """Estimates the training of a population, spread over all devices.

    A step takes at least as long as its FLOP at the peak, and as its bytes at
    the bandwidth of the memory. Members do not speak to each other. Launches,
    evaluation and checkpoints are left out, and small populations do not fill a
    device: this is a bound, not a forecast.

    Args:
      name: of the hardware.
      member: what one run costs.
      count: members.
      share: of its peak that this machine reaches in a step, at most 1; None
        where it was not measured.

    Returns:
      `members_per_device`, and how many would fit (`most_per_device`);
      `seconds_per_step` and `hours` at least, and what they are bound by
      (`bound`: "compute" or "memory"); `hours_at_share` if devices reach only
      that share of what bounds them (None without one).
    """
    device = HARDWARE[name]
    per_device = -(-count // device.devices)
    compute = per_device * member.flops / device.flops
    memory = per_device * member.num_bytes / device.bandwidth
    seconds = max(compute, memory)
    hours = member.steps * seconds / 3600
    room = max(0.0, device.memory - member.images)
    return {
        "hardware": name,
        "members": count,
        "members_per_device": per_device,
        "most_per_device": int(room // member.memory),
        "seconds_per_step": seconds,
        "bound": "compute" if compute >= memory else "memory",
        "hours": hours,
        "hours_at_share": None if share is None else hours / share,
    }
