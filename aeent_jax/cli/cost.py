"""`aeent cost`: what a step of a configuration costs, before training.

aeent cost [--config=FILE] [--devices=2] [--train_images=1000] [--json]

Prints parameters, and FLOP, bytes and memory of a training step, as XLA reports
them for the program that it compiles for this machine.
"""

import json
import sys
from collections.abc import Sequence

from absl import flags

from aeent_jax.cli import config_flag, program

_CONFIG = config_flag.define()
_DEVICES = flags.DEFINE_integer(
    "devices",
    1,
    "Devices that a step is spread over. The CPU is split into as many.",
    lower_bound=1,
)
_TRAIN_IMAGES = flags.DEFINE_integer(
    "train_images", 0, "Training images; 0: count those of the data set."
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead.")


def main(argv: Sequence[str]) -> int:
    """Prints the cost; returns the exit status."""
    program.refuse_positional(argv)
    program.configure_jax(_split_cpu)
    from aeent_jax.bench import cost

    result = cost.measure(
        _CONFIG.value,
        num_devices=_DEVICES.value,
        train_images=_TRAIN_IMAGES.value,
        log=lambda line: print(line, file=sys.stderr),
    )
    print(json.dumps(result) if _JSON.value else cost.format_cost(result))
    return 0


def _split_cpu() -> None:
    import jax

    # Has no effect on accelerators.
    jax.config.update("jax_num_cpu_devices", _DEVICES.value)


if __name__ == "__main__":
    program.run(main)
