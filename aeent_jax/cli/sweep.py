"""`aeent sweep`: train the members of a sweep, then tables and a figure.

aeent sweep --config=configs/estimators.py --config.data.root=DIR \
    --out=runs/estimators [--only='kde_*'] [--workers=2]
aeent sweep --config=configs/table1.py:rsna --config.data.root=DIR --out=OUT
aeent sweep --records=configs/results/estimators[,DIR2] --out=DIR
aeent sweep --config=configs/weights.py --config.data.root=DIR --out=OUT \
    --only='*_s0' --select=description_length

The configuration file has a second function, get_members, which yields the
name of each member and the keys that it sets. A member is an ordinary run in
OUT/<member>. On CPU each is trained by `aeent train` in a process of its own,
one per core, with one device; on accelerators one compiled program trains all
members that differ in seed, learning rate, weight and latent size alone. The
same command goes on where a sweep was stopped.

With --records nothing is trained: tables and figures are made of records, of
one folder or of several. With --select a rule that sees no label takes one of
the members; where there are labels, its regret is printed too.
"""

import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import config_flags

from aeent_jax.cli import config_flag, program

_CONFIG = config_flag.define()
_OUT = flags.DEFINE_string("out", None, "Folder of this sweep.")
_ONLY = flags.DEFINE_string("only", "*", "Pattern of members' names to train.")
_WORKERS = flags.DEFINE_integer(
    "workers", 0, "Processes at a time; 0: one per core, one on accelerators."
)
_POPULATION = flags.DEFINE_integer(
    "population",
    0,
    "Members that one compiled program trains, at most; 1: each by itself; 0:"
    " what is fastest here, 1 on CPU and 64 on accelerators.",
)
_INTERRUPTED_STATUS = program.define_interrupted_status()
_RECORDS = program.define_paths(
    "records", "Folders of records to make tables of, without training."
)
_EVALUATION = flags.DEFINE_string(
    "evaluation",
    "",
    "Metrics that tables show: a folder in eval/test of each member, as `aeent"
    " evaluate` writes with --score or --deduplicate, such as smoothed_box5 or"
    " near; empty for the member's own.",
)
_SELECT = flags.DEFINE_list(
    "select",
    [],
    "Rules that take one of the members without labels, or all: such as"
    " description_length, elbow, rate_12, latent_16, weight_0.001.",
)


def _get_members() -> Callable:
    """The second function of the configuration file."""
    return config_flag.load_function(
        config_flags.get_config_filename(flags.FLAGS["config"]), "get_members"
    )


def _train(out: pathlib.Path) -> dict[str, str]:
    """Trains; returns the last sentence of each that failed."""
    from aeent_jax import sweep

    members = sweep.make_members(
        _CONFIG.value,
        _get_members(),
        only=_ONLY.value,
        given=config_flags.get_override_values(flags.FLAGS["config"]),
    )
    return sweep.train_members(
        members,
        out,
        num_workers=_WORKERS.value,
        population=_POPULATION.value,
        configure_jax=program.configure_jax,
    )


def main(argv: Sequence[str]) -> int:
    """Runs a sweep; returns the exit status."""
    program.refuse_positional(argv)
    if not _OUT.value:
        raise ValueError("give the folder of this sweep with --out=DIR.")
    from aeent_jax import sweep
    from aeent_jax.runtime import storage

    rules = list(sweep.RULES) if _SELECT.value == ["all"] else _SELECT.value
    sweep.check_rules(rules)
    out = storage.disk_path("--out", _OUT.value)
    folders = [storage.disk_path("--records", x) for x in _RECORDS.value or []]
    folders = folders or [out / "records"]
    failures, names = {}, None
    try:
        if not _RECORDS.value:
            failures = _train(out)
            names = sweep.find_names(_CONFIG.value, _get_members())
    except sweep.InterruptedSweepError as stop:
        print(stop, file=sys.stderr)
        return _INTERRUPTED_STATUS.value
    # Another sweep may have left records in the same folder.
    if names is None or any(
        (folders[0] / f"{n}.json").is_file() for n in names
    ):
        print(
            sweep.write_results(
                folders,
                out,
                names=names,
                select=rules,
                evaluation=_EVALUATION.value,
            )
        )
        print(f"\nEverything is in {out}")
    if failures:
        print(
            f"error: these members failed: {', '.join(failures)}; their output"
            f" is in {out / 'logs'}, and the same command tries them again.",
            file=sys.stderr,
        )
    return 1 if failures else 0


if __name__ == "__main__":
    program.run(main)
