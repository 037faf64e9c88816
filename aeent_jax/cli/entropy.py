"""`aeent entropy`: every estimator on the latents of a file or of a run.

aeent entropy --latents=z.npy [--sigma=1.0] [--bandwidth=channel] [--json]
aeent entropy --workdir=runs/default [--split=train]
"""

from collections.abc import Sequence

from absl import flags

from aeent_jax.cli import program

_LATENTS = flags.DEFINE_string(
    "latents", None, "A .npy file of [n, dim] latents."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a run, whose images give the latents."
)
_SPLIT = flags.DEFINE_string(
    "split", "train", "Images of the run: train, val or test."
)
_SIGMA = flags.DEFINE_float(
    "sigma", None, "Noise of the channel; 1, or the run's, where not given."
)
_BANDWIDTH = flags.DEFINE_string(
    "bandwidth",
    "channel",
    "channel measures z + sigma*eps; a rule's name or a number measures z.",
)
_MAX_QUERIES = flags.DEFINE_integer(
    "max_queries", None, "Queries at most; 4096 above 16384 latents."
)
_ESTIMATORS = flags.DEFINE_list("estimators", [], "Names; all by default.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of noise, chosen rows and fits.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead.")


_ROOT = program.define_root()


def _load():
    """Returns the latents, and the channel's sigma unless a flag gives it."""
    from aeent_jax.evaluation import latents
    from aeent_jax.training import restore

    if not _WORKDIR.value:
        return latents.read(_LATENTS.value), 1.0
    z, sigma = restore.encode_workdir(
        _WORKDIR.value, _SPLIT.value, root=_ROOT.value
    )
    return latents.check(z, f"The latents of {_WORKDIR.value}"), sigma


def main(argv: Sequence[str]) -> int:
    """Measures and prints; returns the exit status."""
    program.refuse_positional(argv)
    if bool(_LATENTS.value) == bool(_WORKDIR.value):
        raise ValueError("give one of --latents=z.npy and --workdir=DIR.")
    program.configure_jax()
    from aeent_jax.evaluation import latents
    from aeent_jax.results import latents as text
    from aeent_jax.runtime import workdir

    z, sigma = _load()
    result = latents.measure(
        z,
        sigma if _SIGMA.value is None else _SIGMA.value,
        bandwidth=_BANDWIDTH.value,
        max_queries=_MAX_QUERIES.value,
        estimators=_ESTIMATORS.value,
        seed=_SEED.value,
    )
    if _JSON.value:
        print(workdir.to_json(result))
    else:
        print(text.describe(result))
    return 0


if __name__ == "__main__":
    program.run(main)
