"""A start of training loads nothing before it needs it."""

import subprocess
import sys

# Seconds of every start, for what only reading images, a save or a figure
# needs.
LATE = ("matplotlib", "orbax.checkpoint", "scipy", "sklearn")
LATE += ("tensorflow_datasets", "tensorstore")

PROGRAM = f"""
import sys, tempfile
import aeent_jax.cli.train
from aeent_jax import data, entropy, methods
from aeent_jax.evaluation import evaluate
from aeent_jax.runtime import checkpoint, hosts
from aeent_jax.training import loop
with tempfile.TemporaryDirectory() as folder:
    with checkpoint.Checkpoints(folder + "/checkpoints", keep=1) as opened:
        assert opened.restore_latest({{}}) is None
print([name for name in {LATE} if name in sys.modules])
"""


def test_training_starts_without_what_it_does_not_use_yet():
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "[]"
