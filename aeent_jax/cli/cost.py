"""`aeent cost`: what a configuration costs, before anything is trained.

aeent cost [--config=FILE] [--devices=2] [--train_images=1000] [--measure]
    [--members=1,256,1024] [--hardware=v5e-256,8xh200] [--json]

Parameters, FLOP and bytes of a step, its collectives and its memory are read
from the program that XLA compiles for this machine. --measure times steps here.
What other hardware would do is an estimate from its published peaks.
"""

import json
import sys
from collections.abc import Sequence

from absl import flags

from aeent_jax.cli import config_flag, program

_CONFIG = config_flag.define()
_DEVICES = flags.DEFINE_integer(
    "devices",
    0,
    "Devices that a run is spread over; 0: those of the configuration. The"
    " CPU is split into as many.",
    lower_bound=0,
)
_TRAIN_IMAGES = flags.DEFINE_integer(
    "train_images", 0, "Training images; 0: count those of the data set."
)
_MEMBERS = flags.DEFINE_list(
    "members", ["1", "256", "1024"], "Members of the populations to estimate."
)
_HARDWARE = flags.DEFINE_list(
    "hardware", None, "Hardware to estimate for; default all that is known."
)
_MEASURE = flags.DEFINE_bool("measure", False, "Time steps on this machine.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead.")


def main(argv: Sequence[str]) -> int:
    """Prints the cost; returns the exit status."""
    program.refuse_positional(argv)
    program.configure_jax()
    if _DEVICES.value:
        import jax

        # Has no effect on accelerators.
        jax.config.update("jax_num_cpu_devices", _DEVICES.value)
    from aeent_jax.bench.costs import analysis, hardware, tables

    names = _HARDWARE.value
    result = analysis.analyse(
        _CONFIG.value,
        num_devices=_DEVICES.value,
        train_images=_TRAIN_IMAGES.value,
        names=list(hardware.HARDWARE) if names is None else names,
        members=_members(),
        measures=_MEASURE.value,
        say=lambda line: print(line, file=sys.stderr),
    )
    print(json.dumps(result) if _JSON.value else tables.format_cost(result))
    return 0


def _members() -> list[int]:
    for word in _MEMBERS.value:
        if not word.strip().isdecimal():
            raise ValueError(
                f"--members has {word!r}, but must list whole numbers, such as"
                " 1,256."
            )
    return [int(word) for word in _MEMBERS.value]


if __name__ == "__main__":
    program.run(main)
