"""Every key of a configuration: its default, meaning, type and range.

`KEYS` is the one table. `default` makes a configuration of it, which presets
and the command line change; `check` refuses one that does not fit the table,
such as a file of another version or one edited by hand.

A name of another table (a method, an estimator, a score, a data set) is
checked where that table is.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

Value = bool | int | float | str
Flat = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of a configuration.

    Attributes:
      default: its type is the type of the key.
      meaning: one line, with the unit.
      least: the smallest value.
      above: excluded limit below the values.
      most: the largest value.
      below: excluded limit above the values.
      multiple: every value is a multiple of it.
      choices: the only values.
    """

    default: Value
    meaning: str
    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf
    multiple: int = 1
    choices: tuple[Value, ...] = ()

    @property
    def kind(self) -> str:
        """The values of this key, as they follow on "it must be"."""
        if self.choices:
            return (
                f"one of {', '.join(str(c) or 'empty' for c in self.choices)}"
            )
        kind = _KINDS[type(self.default)][1]
        if self.multiple > 1:
            kind = f"a multiple of {self.multiple}"
        limits = {
            "of at least": self.least,
            "above": self.above,
            "at most": self.most,
            "below": self.below,
        }
        finite = [f"{w} {x}" for w, x in limits.items() if math.isfinite(x)]
        return " ".join([kind, " and ".join(finite)]).rstrip()

    def holds(self, value: object) -> bool:
        """Whether a value has the type of this key and is in its range."""
        types, _ = _KINDS[type(self.default)]
        # True is an int in Python, and no number here.
        is_truth = isinstance(value, bool)
        if not isinstance(value, types) or is_truth != (types is bool):
            return False
        if self.choices:
            return value in self.choices
        if isinstance(value, str | bool):
            return True
        return (
            math.isfinite(value)
            and self.least <= value <= self.most
            and self.above < value < self.below
            and (self.multiple == 1 or value % self.multiple == 0)
        )


# The types of values, and how a sentence names them. A whole number is a
# number too.
_KINDS: dict[type, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a finite number"),
    str: (str, "a string"),
}

KEYS: dict[str, Key | dict[str, Key]] = {
    "method": Key("ae", "a name of methods.METHODS"),
    "compat": Key(
        "",
        '"medianomaly": with the quirks of the reference; see methods',
        choices=("", "medianomaly"),
    ),
    "data": {
        "name": Key("phantom_cxr", "a name that `aeent data list` prints"),
        "root": Key("", "folder of the images; empty for generated sets"),
        "cache_dir": Key("", "prepared copies; empty: ~/.cache/aeent_jax"),
        "image_size": Key(64, "side in pixels", least=16, multiple=16),
        "memory_budget_mb": Key(
            4096,
            "MB of images in memory; others stay in files",
            least=0,
        ),
        "channels": Key(1, "1: gray, 3: RGB", choices=(1, 3)),
        "window": Key("", '"0,4095": black and white of wide images'),
        "resize": Key(
            "stretch",
            "images that are not square",
            choices=("stretch", "pad"),
        ),
        "deduplicate": Key(
            "",
            "near copies left out: near: of the test split; near_train: of the "
            "training split; random_train: as many at random",
            choices=("", "near", "near_train", "random_train"),
        ),
        "calibration": Key(
            "auto", 'normals held out for verdicts: auto, none, or "0.2", say'
        ),
        "validation_fraction": Key(
            0.0, "fraction of the training normals held out", least=0, below=1
        ),
    },
    "model": {
        "latent_dim": Key(64, "size of the latent vector", least=1),
        "base_width": Key(16, "channels of the first block", least=1),
        "hidden_dim": Key(1024, "size of the linear layers", least=1),
        "depth": Key(1, "convolutions per block", least=1),
        "memory_slots": Key(25, "memae: number of slots", least=1),
        "shrink_threshold": Key(
            0.0025, "memae: smaller addresses become 0", least=0
        ),
    },
    # Weights of the terms that methods add to their reconstruction loss.
    "loss": {
        "kl_weight": Key(0.005, "vae: KL, mean over dimensions", least=0),
        "address_weight": Key(2e-4, "memae: entropy of the addresses", least=0),
        "consistency_weight": Key(
            1.0, "constrained_ae: weight of mean((z - E(x_hat))**2)", least=0
        ),
        "feature_weight": Key(
            1.0, "ganomaly: distance of the adversary's features", least=0
        ),
        "image_weight": Key(50.0, "ganomaly: squared error", least=0),
        "latent_weight": Key(
            1.0, "ganomaly: weight of mean((z - E'(x_hat))**2)", least=0
        ),
        "vgg_weights": Key("", "ae_perceptual: file; see its docstring"),
        "vgg_statistics": Key("", "ae_perceptual: file; see its docstring"),
    },
    # Changes of the input in training.
    "corruption": {
        "square_size": Key(
            10, "ceae: side of the black square, pixels", least=1
        ),
        "noise_std": Key(
            0.2, "dae: deviation of coarse noise, images in [0, 1]", least=0
        ),
        "noise_size": Key(16, "dae: side of the noise's grid", least=2),
        "foreground_only": Key(False, "dae: no noise where x is black"),
    },
    "channel": {
        "sigma": Key(
            1.0, "deviation of the noise on latents; 0: no channel", least=0
        ),
        "noise": Key(
            "gaussian",
            "uniform: the dither of a quantiser",
            choices=("gaussian", "uniform"),
        ),
        "normalisation": Key(
            "none",
            "power: latents are divided by their root mean square",
            choices=("none", "power"),
        ),
    },
    "entropy": {
        "estimator": Key("kde_loo", "a name that `aeent entropy` prints"),
        "weight": Key(
            5e-4, "weight of one nat beside the reconstruction loss", least=0
        ),
        "bandwidth": Key(
            "channel", 'of the kernel: "channel" is sigma; or a rule, or "0.5"'
        ),
        "allow_unsound": Key(False, "allow a weight without a channel"),
        "controller": Key(
            "fixed",
            "what sets the weight from step to step",
            choices=("fixed", "schedule", "target_rate", "target_distortion"),
        ),
        "target": Key(
            0.0, "target_rate: nats; target_distortion: squared error", least=0
        ),
        "controller_rate": Key(
            1e-2, "largest change of log weight per step", least=0
        ),
        "warmup_fraction": Key(
            0.5, "schedule: part of the training with a rising weight", above=0
        ),
        "k": Key(3, "knn: which neighbour", least=1),
        "alpha": Key(2.0, "matrix_renyi: order of the entropy", above=0),
        "group": Key(1, "kde_marginal: dimensions at a time", least=1, most=4),
        "shrinkage": Key(
            "oas", 'gaussian: oas, ledoit_wolf, none, or "0.1", say'
        ),
        "bias_correction": Key(
            False, "gaussian: correct the bias of small samples"
        ),
        "spacing": Key(
            0, "vasicek: 0 sets it from the number of latents", least=0
        ),
        "num_bins": Key(32, "histogram: bins per dimension", least=2),
        "miller_madow": Key(
            False, "histogram: correct the bias of small samples"
        ),
        "components": Key(16, "mixture: number of Gaussians", least=1),
        "covariance": Key(
            "diagonal", "mixture: its matrices", choices=("diagonal", "full")
        ),
        "learning_rate": Key(1e-2, "Adam on a learned estimator", above=0),
    },
    "optimizer": {
        "learning_rate": Key(1e-3, "largest learning rate of Adam", above=0),
        "schedule": Key(
            "constant",
            "course of the learning rate",
            choices=("constant", "cosine", "linear"),
        ),
        "warmup_steps": Key(0, "steps of linear increase from 0", least=0),
        "clip_norm": Key(
            0.0, "largest norm of the gradient; 0: no clipping", least=0
        ),
    },
    # Encoder and decoder; the rest is in float32.
    "compute": {
        "dtype": Key(
            "float32", "type of activations", choices=("float32", "bfloat16")
        ),
        "matmul_precision": Key(
            "default",
            "precision of products in float32",
            choices=("default", "high", "highest"),
        ),
    },
    "train": {
        "epochs": Key(250, "passes over the training normals", least=1),
        # One image has no variance for BatchNorm and no rate.
        "batch_size": Key(64, "images per step, over all devices", least=2),
        # The step gets it as an int32.
        "seed": Key(
            0, "seed of weights, order and noise", least=0, most=2**31 - 1
        ),
        "steps_per_call": Key(
            0, "steps per compiled call; 0: 1 on CPU, else 8", least=0
        ),
        "microbatches": Key(
            1,
            "parts of a batch, one after another; see training/accumulation",
            least=1,
        ),
    },
    "eval": {
        "score": Key("", "a name of methods.SCORES; empty: the method's own"),
        "every_epochs": Key(
            0, "epochs between evaluations; 0: at the end alone", least=0
        ),
        "batch_size": Key(256, "images per call, over all devices", least=1),
        "num_resamples": Key(
            1000, "resamples of the bootstrap intervals", least=2
        ),
        "diagnostic_latents": Key(
            1000, "most latents measured per kind of image", least=2
        ),
    },
    "parallel": {
        "num_devices": Key(0, "0: all; a CPU is one", least=0),
    },
    "checkpoint": {
        "every_steps": Key(
            500, "steps between saves; 0: at the end alone", least=0
        ),
        "keep": Key(
            2, "checkpoints kept; the best by validation is extra", least=1
        ),
        "restore_from": Key("", "another run, whose weights to start from"),
    },
    "log": {
        "every_epochs": Key(
            1, "epochs between lines of metrics.jsonl", least=1
        ),
        "profile": Key("", "start:stop, steps to trace into the workdir"),
        "tensorboard": Key(True, "write events, if tensorboardX is installed"),
    },
}

# Groups and keys that came later than version 0.1.0. Their defaults change
# nothing, so a run that lacks them is one that has them.
_ADDED = (
    "compat",
    "compute",
    "corruption",
    "data.calibration",
    "data.deduplicate",
    "data.memory_budget_mb",
    "data.resize",
    "entropy.warmup_fraction",
    "eval.score",
    "log.profile",
    "loss",
    "model.memory_slots",
    "model.shrink_threshold",
    "train.microbatches",
)
# The exceptions: what a run of an earlier version had in place of the default.
_BEFORE = {"data.calibration": "none"}

# Keys that earlier versions had: the value at which they changed nothing, and
# what to do about another one. Configurations and records have them.
REMOVED: dict[str, tuple[Value, str]] = {
    "entropy.queue_size": (
        0,
        "this version has no queue of earlier latents; leave it out",
    ),
    "entropy.warmup_epochs": (
        0,
        "entropy.warmup_fraction, a fraction of the training, has replaced it",
    ),
    "parallel.mode": (
        "pmap",
        "this version maps steps with pmap alone; leave it out",
    ),
}

# Groups and keys that change no trained parameter beyond rounding, as long as
# a path leads to the same files.
_INDECISIVE = (
    "checkpoint",
    "data.cache_dir",
    "data.memory_budget_mb",
    "data.root",
    "eval",
    "log",
    "loss.vgg_statistics",
    "loss.vgg_weights",
    "parallel",
    "train.steps_per_call",
)

# Passes over the training normals in the reference's protocol, and for the
# user's own images ("folder").
EPOCHS = {
    "rsna": 250,
    "vindr_cxr": 250,
    "brain_tumor": 600,
    "brats2021": 250,
    "lag": 250,
    "isic2018": 250,
    "camelyon16": 250,
    "kermany_cxr": 100,
    "brain_mri": 200,
    "phantom_cxr": 100,
    "phantom_mri": 100,
    "folder": 250,
}
_IN_COLOR = ("camelyon16",)


def default() -> ml_collections.ConfigDict:
    """Returns the configuration of all defaults.

    It is an entropy-controlled autoencoder of latent size 64 on generated chest
    X-rays, under the reference's protocol.
    """
    return ml_collections.ConfigDict(_defaults())


def benchmark(data: str, variant: str) -> ml_collections.ConfigDict:
    """Returns the reference's protocol on a data set.

    Args:
      data: a key of `EPOCHS`.
      variant: as in `apply_variant`.

    Raises:
      ValueError: another data set or variant.
    """
    if data not in EPOCHS:
        raise ValueError(
            f"the data set is {data!r}, but must be one of {', '.join(EPOCHS)}."
        )
    config = default()
    config.data.name = data
    config.data.channels = 3 if data in _IN_COLOR else 1
    config.train.epochs = EPOCHS[data]
    return apply_variant(config, variant)


def apply_variant(
    config: ml_collections.ConfigDict, variant: str
) -> ml_collections.ConfigDict:
    """Switches the entropy control of a configuration on or off.

    Args:
      config: changed in place.
      variant: "controlled" for the channel with `coding_rate` at a weight that
        rises to 1e-3, fixed before any result was seen; "plain" for neither.

    Returns:
      The configuration.

    Raises:
      ValueError: another variant.
    """
    if variant == "controlled":
        config.entropy.estimator = "coding_rate"
        config.entropy.weight = 1e-3
        config.entropy.controller = "schedule"
    elif variant == "plain":
        config.channel.sigma = 0.0
        config.entropy.estimator = "none"
        config.entropy.weight = 0.0
        config.entropy.controller = "fixed"
    else:
        raise ValueError(
            f"the variant is {variant!r}, but must be controlled or plain."
        )
    return config


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a configuration of an earlier version as one of this version.

    Args:
      config: nested groups of values.

    Returns:
      The same with the keys that came later than version 0.1.0, at the values
      that change nothing, and without the removed keys that changed nothing
      or have another name now. Other keys that it lacks stay away.
    """
    filled = {
        name: {k: v for k, v in value.items() if not is_gone(f"{name}.{k}", v)}
        if isinstance(value, Mapping)
        else value
        for name, value in config.items()
    }
    flat = flatten(filled)
    if flat.get("entropy.warmup_epochs") and flat.get("train.epochs"):
        group = filled["entropy"]
        group["warmup_fraction"] = (
            group.pop("warmup_epochs") / flat["train.epochs"]
        )
    for name, key in table().items():
        if _is_in(name, _ADDED):
            group, _, last = name.rpartition(".")
            place = filled.setdefault(group, {}) if group else filled
            if isinstance(place, dict):
                place.setdefault(last, _BEFORE.get(name, key.default))
    return filled


def is_gone(key: str, value: object) -> bool:
    """Whether a flat key was removed, and its value changed nothing."""
    return key in REMOVED and REMOVED[key][0] == value


def check(config: Mapping[str, Any], source: str) -> None:
    """Refuses a configuration that does not fit the table.

    Args:
      config: nested groups of values.
      source: where it comes from, as a sentence begins.

    Raises:
      ValueError: a key is missing or unknown, or its value has another type or
        is out of its range. The first one is named.
    """
    fault = next(_faults(config), None)
    if fault is not None:
        raise ValueError(f"{source} has {fault}")


def decisive(config: Mapping[str, Any] | ml_collections.ConfigDict) -> Flat:
    """The keys by which two runs are the same experiment.

    Args:
      config: nested groups of values.

    Returns:
      Flat key -> value of the keys that decide the trained parameters, the
      seed among them.
    """
    return {k: v for k, v in flatten(config).items() if decides(k)}


def decides(key: str) -> bool:
    """Whether a flat key decides the trained parameters."""
    return not _is_in(key, _INDECISIVE)


def flatten(
    tree: Mapping[str, Any] | ml_collections.ConfigDict, prefix: str = ""
) -> Flat:
    """Nested groups under flat keys, with dots between the names."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_in(key: str, names: tuple[str, ...]) -> bool:
    """Whether a flat key, or its group, is one of the names."""
    return key in names or key.split(".")[0] in names


def table() -> dict[str, Key]:
    """Flat name -> key, in the order of the table."""
    return flatten(KEYS)


def describe() -> str:
    """The table as text, one line per key."""
    return "\n".join(
        f"  --config.{name}={_shown(key.default)}: {key.meaning}"
        + (f" ({key.kind})" if key.choices else "")
        for name, key in table().items()
    )


def _shown(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _defaults() -> dict[str, Any]:
    return {
        name: entry.default
        if isinstance(entry, Key)
        else {last: key.default for last, key in entry.items()}
        for name, entry in KEYS.items()
    }


def _faults(config: Mapping[str, Any]) -> Iterator[str]:
    """Yields the fault of each key, as it follows on "has"."""
    for name, entry in KEYS.items():
        if isinstance(entry, Key):
            yield from _faults_of(config, "", {name: entry})
        elif not isinstance(config.get(name, {}), Mapping):
            yield (
                f"{name} = {config[name]!r}, but it must be a group of keys:"
                f" {', '.join(entry)}."
            )
        elif name in config:
            yield from _faults_of(config[name], f"{name}.", entry)
            yield from _unknown(config[name], f"{name}.", entry)
        else:
            yield _missing(name)
    yield from _unknown(config, "", KEYS)


def _faults_of(
    group: Mapping[str, Any], prefix: str, entries: Mapping[str, Key]
) -> Iterator[str]:
    for last, key in entries.items():
        name = f"{prefix}{last}"
        if last not in group:
            yield _missing(name)
        elif not key.holds(group[last]):
            yield f"{name} = {group[last]!r}, but it must be {key.kind}."


def _unknown(
    group: Mapping[str, Any], prefix: str, entries: Mapping[str, Any]
) -> Iterator[str]:
    for last, value in group.items():
        name = f"{prefix}{last}"
        if name in REMOVED:
            yield f"{name} = {value!r}, but {REMOVED[name][1]}."
        elif last not in entries:
            yield (
                f"{name}, which is no key of this version; remove it, or use"
                " the version that has it."
            )


def _missing(name: str) -> str:
    return (
        f"no {name}, so it is of another version; add what it lacks, with the"
        " defaults that `aeent train --help` lists."
    )
