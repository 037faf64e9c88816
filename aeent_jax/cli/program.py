"""What all programs share: flags in, one sentence out when something is off."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags

from aeent_jax import config
from aeent_jax.cli import config_flag

# What a user can mend. Anything else is our mistake and keeps its traceback.
USER_ERRORS = (ValueError, OSError, FloatingPointError)

# Settings that change what a program computes, or make JAX refuse it.
_JAX_DEFAULTS = {
    "jax_default_prng_impl": "threefry2x32",
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_threefry_partitionable": True,
}


def run(
    main: Callable[[Sequence[str]], int | None],
    argv: Sequence[str] | None = None,
) -> None:
    """Parses flags, runs `main` and exits with its status.

    Args:
      main: from what flags left of the command line to an exit status.
      argv: the command line; None is the process's own.
    """

    def guarded(rest: Sequence[str]) -> int | None:
        try:
            return main(rest)
        except USER_ERRORS as error:
            print(f"error: {_one_line(error)}", file=sys.stderr)
            return 1
        except Exception as error:
            from aeent_jax.runtime import storage

            sentence = storage.network_failure(error)
            if sentence is None:
                raise
            print(f"error: {sentence}", file=sys.stderr)
            return 1

    def parse(args: Sequence[str]) -> list[str]:
        if {"-h", "--help"} & set(args[1:]):
            print(_help(main))
            sys.exit(0)
        try:
            return flags.FLAGS(config_flag.complete(args))
        except (flags.Error, *USER_ERRORS) as error:
            sys.exit(f"error: {_one_line(error)}")

    app.run(guarded, argv=argv, flags_parser=parse)


def _help(main: Callable[..., Any]) -> str:
    """The program's docstring and its flags; absl knows those of one module."""
    module = sys.modules[main.__module__]
    texts = [module.__doc__ or ""]
    shared = (__name__, config_flag.__name__, "aeent_jax.cli.hosts_flag")
    for name in (module.__name__, sys.argv[0], *shared):
        if name in flags.FLAGS.flags_by_module_dict():
            texts.append(flags.FLAGS.module_help(name))
    if "config" in flags.FLAGS:
        texts.append(f"keys of the configuration:\n{config.describe()}")
    return "\n".join(texts)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def define_interrupted_status() -> flags.FlagHolder:
    """Defines --interrupted_status, which is 0 where it is not given."""
    return flags.DEFINE_integer(
        "interrupted_status",
        0,
        "Exit status after a stop by a signal, when the state is saved;"
        " schedulers that start anew what failed need one above 0, such as 75.",
        lower_bound=0,
        upper_bound=255,
    )


def refuse_positional(rest: Sequence[str]) -> None:
    """Raises where words are left over that are no flags.

    Args:
      rest: the command line without flags, the program's name first.

    Raises:
      ValueError: there are some.
    """
    if len(rest) > 1:
        raise ValueError(
            f"{' '.join(rest[1:])!r} is no flag of this command; flags are"
            " written --name=value."
        )


def configure_jax(join: Callable[[], None] = lambda: None) -> None:
    """Chooses the devices and the compilation cache; before JAX is used.

    Variables such as JAX_ENABLE_X64 change nothing: the numbers of a run are
    those of JAX's defaults.

    Args:
      join: called before the devices are looked at.

    Raises:
      ValueError: the platform that the environment asks for is not here.
    """
    import jax

    from aeent_jax.runtime import parallel

    # It reports at length each kind of device that is not there.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    for setting, value in _JAX_DEFAULTS.items():
        jax.config.update(setting, value)
    parallel.keep_freed_memory()
    parallel.use_one_cpu_device_per_core()
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    jax.config.update(
        "jax_compilation_cache_dir", os.path.join(cache, "aeent_jax", "xla")
    )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    join()
    parallel.find_platform()
