"""The collectives of a compiled program, read from its text.

XLA prints one instruction a line, such as

    %all-reduce = (f32[64]{0}, f32[8,64]{1,0}) all-reduce(%a, %b), channel_id=1,
        ..., metadata={op_name="jit(f)/shard_map/psum"}
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

# By the kind: of the array that all devices hold together, how much each sends
# where n of them form a ring.
_SENT: dict[str, Callable[[int], float]] = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
_INSTRUCTION = re.compile(
    rf" = (?P<type>[^=]*(?:=\d+\*/[^=]*)*?) (?P<kind>{'|'.join(_SENT)})"
    r"(?P<start>-start)?\("
)
_SHAPE = re.compile(r"\b(?P<dtype>[a-z]+[0-9]*\w*)\[(?P<sizes>[0-9,]*)\]")
_SOURCE = re.compile(r'op_name="([^"]*)"')
_BITS = re.compile(r"[0-9]+")


class Collective(NamedTuple):
    """One collective of a program.

    Attributes:
      kind: "all-reduce", "all-gather", "reduce-scatter", "all-to-all" or
        "collective-permute".
      shapes: of the arrays that it gives to a device.
      num_bytes: of those that all devices have together: what is reduced, or
        gathered, or was there before it was scattered.
      sent_bytes: what each device sends on a ring.
      source: where in the program it comes from, as JAX names it.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    num_bytes: int
    sent_bytes: int
    source: str


def parse(text: str, num_devices: int) -> list[Collective]:
    """Lists the collectives of a program.

    Args:
      text: of the compiled program, from `as_text`.
      num_devices: that take part in each.

    Returns:
      The collectives, in the order of the text.
    """
    found = []
    for line in text.splitlines():
        instruction = _INSTRUCTION.search(line)
        if instruction is not None:
            found.append(_collective(line, instruction, num_devices))
    return found


def _collective(line, instruction, num_devices) -> Collective:
    kind = instruction["kind"]
    arrays = _SHAPE.findall(instruction["type"])
    if instruction["start"] and kind != "all-reduce":
        # The type of one that only begins has its operands, then its results.
        arrays = arrays[len(arrays) // 2 :]
    shapes = tuple(
        tuple(int(size) for size in sizes.split(",") if size)
        for _, sizes in arrays
    )
    num_bytes = sum(
        math.prod(shape) * _bytes_of(dtype)
        for shape, (dtype, _) in zip(shapes, arrays, strict=True)
    )
    if kind == "reduce-scatter":
        num_bytes *= num_devices
    source = _SOURCE.search(line)
    return Collective(
        kind,
        shapes,
        num_bytes,
        round(num_bytes * _SENT[kind](num_devices)),
        source[1] if source else "",
    )


def _bytes_of(dtype: str) -> int:
    """Bytes of a number, from the bits in the name of its type."""
    bits = _BITS.search(dtype)
    # A truth value takes a byte.
    return max(1, int(bits[0]) // 8) if bits else 1
