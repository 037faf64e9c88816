"""Shared by all programs: flags in, one sentence out when something is off."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags

from aeent_jax import config
from aeent_jax.cli import config_flag

# Users can mend these. Anything else is our mistake and keeps its traceback.
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
            if isinstance(error, BrokenPipeError):
                sys.stdout.flush()  # Raises again, unless it was a socket.
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

    with leaving_closed_pipes():
        app.run(guarded, argv=argv, flags_parser=parse)


@contextlib.contextmanager
def leaving_closed_pipes() -> Iterator[None]:
    """Ends without a word where nobody reads on: `aeent --help | head`."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes both once more as it ends.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(1)


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


class _PathsParser(flags.ArgumentParser):
    """Paths with commas between them, which a name can have too."""

    syntactic_help = "paths, separated by commas"

    def parse(self, argument: str | list[str]) -> list[str]:
        """Splits at commas, but not inside a path that exists."""
        if isinstance(argument, list):
            return argument
        pieces, paths = argument.split(","), []
        while pieces:
            count = len(pieces)
            while count > 1 and not os.path.exists(
                os.path.expanduser(",".join(pieces[:count]))
            ):
                count -= 1
            paths.append(",".join(pieces[:count]))
            del pieces[:count]
        return [path for path in paths if path]


def define_paths(name: str, meaning: str) -> flags.FlagHolder:
    """Defines a flag that takes several paths.

    Args:
      name: of the flag.
      meaning: for --help.

    Returns:
      The flag: a list, or None where it is not given.
    """
    return flags.DEFINE(_PathsParser(), name, None, meaning)


def define_root() -> flags.FlagHolder:
    """Defines --root, for commands that use the images of a finished run."""
    return flags.DEFINE_string(
        "root",
        "",
        "Folder of the run's images, if they are no longer where training"
        " found them.",
    )


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
    """Sets up JAX, its memory and its compilation cache; before JAX is used.

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
    _keep_compiled_programs()
    join()
    parallel.find_platform()


def _keep_compiled_programs() -> None:
    """Turns JAX's cache on disk on, where the user has a folder for it."""
    import jax

    from aeent_jax.runtime import storage

    try:
        folder = storage.cache_folder() / "xla"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        return  # Programs are compiled again each time; nothing else is lost.
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
