"""`aeent evaluate`: evaluate trained networks again, without training.

aeent evaluate --workdir=runs/default [--best]
aeent evaluate --workdir=runs/a,runs/b --score=squared,smoothed_box9

Without --score it writes DIR/eval/<split> anew. With it, each score goes into a
subfolder of that, and nothing else changes. Runs that differ only in their seed
get a second table, of mean and standard deviation. A score is a name or a sum,
such as squared+0.001*surprise:

  squared, absolute, ...  maps of the residual, and others of methods.SCORES
  smoothed_box9           the residual, low-pass filtered over 9 x 9 pixels,
                          then squared; smoothed_gaussian2 has sd 2
  surprise                minus the log density of the latent among those of
                          the training normals, in nats
  description_length      reconstruction loss + the run's weight * surprise:
                          what training minimises, of that one image

On several hosts, the same on each, with the flags of `aeent train`.
"""

from collections.abc import Sequence

from absl import flags

from aeent_jax.cli import hosts_flag, program

_WORKDIR = program.define_paths("workdir", "Workdirs, separated by commas.")
_BEST = flags.DEFINE_bool(
    "best", False, "Take the checkpoint of the lowest validation error."
)
_SCORE = flags.DEFINE_list("score", [], "Scores other than the run's own.")
_DEDUPLICATE = flags.DEFINE_bool(
    "deduplicate",
    False,
    "Leave near copies of training images out of the test split; the evaluation"
    " goes into the subfolder `near`.",
)


_ROOT = program.define_root()


def main(argv: Sequence[str]) -> int:
    """Evaluates; returns the exit status."""
    program.refuse_positional(argv)
    if not _WORKDIR.value:
        raise ValueError("give the folder of a run with --workdir=DIR.")
    hosts_flag.configure_jax()
    from aeent_jax.runtime import hosts

    with hosts.taking_part(program.USER_ERRORS):
        _evaluate()
    return 0


def _evaluate():
    from aeent_jax.results import evaluations
    from aeent_jax.runtime import hosts
    from aeent_jax.training import restore

    restore.check(_WORKDIR.value, _SCORE.value)
    found = {}
    for directory in _WORKDIR.value:
        found[directory] = restore.evaluate_workdir(
            directory,
            best=_BEST.value,
            scores=_SCORE.value,
            root=_ROOT.value,
            deduplicate=_DEDUPLICATE.value,
        )
        if not _SCORE.value and hosts.is_first():
            print(evaluations.describe(found[directory][0]))
    if _SCORE.value and hosts.is_first():
        print(evaluations.describe_scores(found))


if __name__ == "__main__":
    program.run(main)
