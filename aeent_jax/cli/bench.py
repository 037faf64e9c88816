"""`aeent bench train | entropy`: speed on this hardware.

aeent bench train [--json] [--config=FILE] [--starts=3] [--steps=20]
    [--members=1,2,4,8] [--dtype=bfloat16]
aeent bench entropy [--json] [--sizes=1024,8192,65536] [--dims=16,64]
    [--peers=ours,dense,map] [--most_seconds=90]

`train` also takes --batch_size=64 and --latent_dim=64, for short.
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
_DTYPE = flags.DEFINE_string("dtype", None, "Short for --config.compute.dtype.")
_STEPS = flags.DEFINE_integer("steps", 20, "Training steps of one start.")
_STARTS = flags.DEFINE_integer("starts", 3, "Starts of each contender.")
_MEMBERS = flags.DEFINE_list("members", [], "Members of populations.")
_SIZES = flags.DEFINE_list(
    "sizes", ["1024", "8192", "65536"], "Numbers of latents."
)
_DIMS = flags.DEFINE_list("dims", ["16", "64"], "Latent dimensions.")
_PEERS = flags.DEFINE_list("peers", [], "What is compared; default all.")
_MOST_SECONDS = flags.DEFINE_float(
    "most_seconds", 90.0, "Seconds of the runs at one size and dimension."
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead.")


def _config() -> ml_collections.ConfigDict:
    """The configuration, with what the short flags say."""
    config = _CONFIG.value
    if _BATCH_SIZE.value is not None:
        config.train.batch_size = _BATCH_SIZE.value
    if _LATENT_DIM.value is not None:
        config.model.latent_dim = _LATENT_DIM.value
    if _DTYPE.value is not None:
        config.compute.dtype = _DTYPE.value
    return config


def _train() -> None:
    members = []
    if _MEMBERS.value:
        members = parse_numbers("members", _MEMBERS.value, "1,2,4,8")
    import jax

    # An accelerator is left to the processes that this one starts.
    jax.config.update("jax_platforms", "cpu")
    from aeent_jax.bench import train_speed

    result = train_speed.measure(
        _config(),
        steps=_STEPS.value,
        starts=_STARTS.value,
        members=members,
        log=lambda line: print(line, file=sys.stderr),
    )
    text = json.dumps if _JSON.value else train_speed.format_training
    print(text(result))


def _entropy() -> None:
    sizes = parse_numbers("sizes", _SIZES.value, "1024,8192")
    dims = parse_numbers("dims", _DIMS.value, "16,64")
    program.configure_jax()
    import jax

    # With it, a second benchmark would report the seconds to read programs.
    jax.config.update("jax_enable_compilation_cache", False)
    from aeent_jax.bench import entropy_peers, entropy_speed

    result = entropy_speed.measure(
        sizes,
        dims,
        _PEERS.value or list(entropy_peers.PEERS),
        log=lambda line: print(line, file=sys.stderr),
        most_seconds=_MOST_SECONDS.value,
    )
    text = json.dumps if _JSON.value else entropy_speed.format_entropy
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


_BENCHES = {
    "train": _train,
    "entropy": _entropy,
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
