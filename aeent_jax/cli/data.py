"""`aeent data list | prepare | check`: what data there is, and is it sound.

aeent data list
aeent data check --root=DIR [--name=rsna] [--window=0,4095] [--json]
aeent data prepare --name=folder --root=DIR [--image_size=64] [--channels=1]

For the benchmark's sets DIR is the folder, the one that holds it and others, or
where the archive lies, which is verified and unpacked into the cache.
"""

import json
from collections.abc import Sequence

from absl import flags

from aeent_jax.cli import program
from aeent_jax.data import (
    catalog,
    check,
    images,
    near_copies,
    prepared,
    sources,
)

_NAME = flags.DEFINE_string("name", "folder", "Name of the data set.")
_ROOT = flags.DEFINE_string(
    "root",
    "",
    "Folder of the user's images, or the benchmark's archive.",
    # Another command of the same process may have a flag of this name.
    allow_override=True,
)
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir",
    "",
    "Where prepared copies and unpacked archives are kept; empty for ~/.cache.",
)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 64, "Side in pixels.")
_CHANNELS = flags.DEFINE_integer(
    "channels",
    None,
    "1 for gray, 3 for RGB; by default what the published protocol uses.",
)
_WINDOW = flags.DEFINE_list(
    "window",
    [],
    "LOW,HIGH: values of images of more than 8 bits that become black and "
    "white; by default the window of the file, or 0,65535.",
)
_RESIZE = flags.DEFINE_enum(
    "resize",
    images.STRETCH,
    images.RESIZES,
    "How images that are not square are made so.",
)
_NEAR_LEVELS = flags.DEFINE_float(
    "near_levels",
    near_copies.LEVELS,
    "Mean difference in gray levels within which check calls images near "
    "copies; 0 looks for none. Takes time with test times training images.",
)
_JSON = flags.DEFINE_bool(
    "json",
    False,
    "Whether check prints JSON, with the name of every file.",
    allow_override=True,
)


def _list() -> int:
    print(catalog.format_table())
    return 0


def _spec() -> sources.Spec:
    published = catalog.get_entry(_NAME.value).channels
    return sources.Spec(
        image_size=_IMAGE_SIZE.value,
        channels=published if _CHANNELS.value is None else _CHANNELS.value,
        window=sources.parse_window(_WINDOW.value),
        resize=_RESIZE.value,
    )


def _prepare() -> int:
    done = prepared.prepare(
        _NAME.value,
        _spec(),
        root=_ROOT.value,
        cache_dir=_CACHE_DIR.value,
        memory_budget=0,  # Only counted here.
    )
    for split, content in done.splits.items():
        abnormal = int(content.labels.sum())
        print(f"{split:<6} {len(content):>7} images, {abnormal} abnormal")
    print(f"{'was already' if done.reused else 'written'} in {done.path}")
    return 0


def _check() -> int:
    report = check.check(
        _NAME.value,
        _ROOT.value,
        cache_dir=_CACHE_DIR.value,
        spec=_spec(),
        near_levels=_NEAR_LEVELS.value,
    )
    if _JSON.value:
        print(json.dumps(check.to_json(report), indent=1))
    else:
        print(check.format_report(report))
    return 1 if report.problems else 0


def main(argv: Sequence[str]) -> int:
    """Runs one command; returns the exit status."""
    commands = argv[1:]
    if len(commands) != 1 or commands[0] not in _COMMANDS:
        raise ValueError(
            f"aeent data needs one of {', '.join(_COMMANDS)}, found "
            f"{' '.join(commands) or 'none'}."
        )
    return _COMMANDS[commands[0]]()


_COMMANDS = {"list": _list, "prepare": _prepare, "check": _check}

if __name__ == "__main__":
    program.run(main)
