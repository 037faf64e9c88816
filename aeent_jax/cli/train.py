"""`aeent train`: train or go on, evaluate, and leave everything in a workdir.

aeent train --config=configs/default.py --workdir=runs/default \
    --config.entropy.estimator=coding_rate --config.train.seed=1

In a bucket, with 'aeent-jax[gcs]' installed: --workdir=gs://BUCKET/runs/default

On several hosts, the same on each, in a workdir that all of them see:

aeent train ... --coordinator=HOST:PORT --num_processes=4 --process_id=0
aeent train ... --distributed        on TPU pods and under Slurm
"""

import sys
from collections.abc import Sequence

from absl import flags

from aeent_jax.cli import config_flag, hosts_flag, program

_CONFIG = config_flag.define()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run.")
_INTERRUPTED_STATUS = program.define_interrupted_status()


def main(argv: Sequence[str]) -> int:
    """Trains; returns the exit status."""
    program.refuse_positional(argv)
    if not _WORKDIR.value:
        raise ValueError("give the folder of this run with --workdir=DIR.")
    hosts_flag.configure_jax()
    from aeent_jax.results import evaluations
    from aeent_jax.runtime import hosts
    from aeent_jax.training import loop

    with hosts.taking_part(program.USER_ERRORS):
        try:
            results = loop.train(_CONFIG.value, _WORKDIR.value)
        except loop.InterruptedRunError as stop:
            print(stop, file=sys.stderr)
            return _INTERRUPTED_STATUS.value
        if hosts.is_first():
            print(evaluations.describe(results))
            print(f"Everything is in {_WORKDIR.value}")
    return 0


if __name__ == "__main__":
    program.run(main)
