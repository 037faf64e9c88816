"""`aeent bench train | entropy | sweep | data`: speed on this hardware.

aeent bench train [--json] [--config=FILE] [--steps=6]
aeent bench entropy [--json] [--sizes=1024,8192,65536] [--dims=16,64]
    [--peers=ours,dense,map] [--most_seconds=90]
aeent bench sweep [--json] [--config=FILE] [--members=1,2,8] [--steps=6]
aeent bench data [--json] [--config=FILE] [--images=200000] [--steps=6]

With --config all take --batch_size=64 and --latent_dim=64, for short.
"""

import json
import sys
from collections.abc import Sequence

import ml_collections
from absl import flags

from aeent_jax.cli import config_flag, program

_CONFIG = config_flag.define()
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Short for --config.train.batch_size."
)
_LATENT_DIM = flags.DEFINE_integer(
    "latent_dim", None, "Short for --config.model.latent_dim."
)
_STEPS = flags.DEFINE_integer("steps", 6, "Steps of one round.")
_SIZES = flags.DEFINE_list(
    "sizes", ["1024", "8192", "65536"], "Numbers of latents."
)
_DIMS = flags.DEFINE_list("dims", ["16", "64"], "Latent dimensions.")
_PEERS = flags.DEFINE_list("peers", [], "What is compared; default all.")
_MOST_SECONDS = flags.DEFINE_float(
    "most_seconds", 90.0, "Of the runs at one size, dimension and kind."
)
_MEMBERS = flags.DEFINE_list(
    "members", ["1", "2", "8"], "Members of the populations."
)
_IMAGES = flags.DEFINE_integer(
    "images", 200_000, "Images of the set that is drawn for the data bench."
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead.")


def _config() -> ml_collections.ConfigDict:
    """The configuration, with what the short flags say."""
    config = _CONFIG.value
    if _BATCH_SIZE.value is not None:
        config.train.batch_size = _BATCH_SIZE.value
    if _LATENT_DIM.value is not None:
        config.model.latent_dim = _LATENT_DIM.value
    return config


def _train() -> None:
    program.configure_jax()
    from aeent_jax.bench import tables, train_speed

    result = train_speed.measure(
        _config(), _STEPS.value, say=lambda line: print(line, file=sys.stderr)
    )
    print(json.dumps(result) if _JSON.value else tables.format_training(result))


def _entropy() -> None:
    sizes = parse_numbers("sizes", _SIZES.value, "1024,8192")
    dims = parse_numbers("dims", _DIMS.value, "16,64")
    program.configure_jax()
    import jax

    # Else a second benchmark would report how long it is to read programs.
    jax.config.update("jax_enable_compilation_cache", False)
    from aeent_jax.bench import entropy, entropy_peers, entropy_tables

    result = entropy.measure(
        sizes,
        dims,
        _PEERS.value or list(entropy_peers.PEERS),
        say=lambda line: print(line, file=sys.stderr),
        most_seconds=_MOST_SECONDS.value,
    )
    text = json.dumps if _JSON.value else entropy_tables.format_entropy
    print(text(result))


def parse_numbers(flag: str, words: Sequence[str], example: str) -> list[int]:
    """Reads the whole numbers of a flag.

    Args:
      flag: its name.
      words: what it was given.
      example: of what it can be given.

    Raises:
      ValueError: there are none, or one is no whole number of at least 1.
    """
    if not words or any(not w.isdecimal() or int(w) < 1 for w in words):
        raise ValueError(
            f"--{flag}={','.join(words)} was found, but whole numbers of at"
            f" least 1 are needed, such as --{flag}={example}."
        )
    return [int(word) for word in words]


def _sweep() -> None:
    sizes = parse_numbers("members", _MEMBERS.value, "1,2,8")
    program.configure_jax()
    from aeent_jax.bench import populations

    result = populations.measure(
        _config(),
        sizes,
        steps=_STEPS.value,
        most_seconds=_MOST_SECONDS.value,
        say=lambda line: print(line, file=sys.stderr),
    )
    text = json.dumps if _JSON.value else populations.format_populations
    print(text(result))


def _data() -> None:
    program.configure_jax()
    from aeent_jax.bench import reading

    result = reading.measure(
        _config(),
        _IMAGES.value,
        _STEPS.value,
        say=lambda line: print(line, file=sys.stderr),
    )
    print(json.dumps(result) if _JSON.value else reading.format_reading(result))


_BENCHES = {
    "train": _train,
    "entropy": _entropy,
    "sweep": _sweep,
    "data": _data,
}


def main(argv: Sequence[str]) -> int:
    """Runs one benchmark; returns the exit status."""
    names = argv[1:]
    if len(names) != 1 or names[0] not in _BENCHES:
        raise ValueError(
            f"aeent bench needs one of {', '.join(_BENCHES)}, found "
            f"{' '.join(names) or 'none'}."
        )
    try:
        _BENCHES[names[0]]()
    except KeyboardInterrupt:
        print("Stopped before the end, so there is no result.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    program.run(main)
