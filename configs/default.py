"""Every key with its default: the reference's protocol on generated X-rays.

An entropy-controlled autoencoder of latent size 64. Run it with

    aeent train --config=configs/default.py --workdir=runs/default

and change any key on the command line: --config.entropy.estimator=coding_rate.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the default configuration."""
    group = ml_collections.ConfigDict
    config = group()
    config.method = "ae"  # a name of methods.METHODS
    config.compat = ""  # "medianomaly": the reference's quirks; see methods

    config.data = group()
    config.data.name = "phantom_cxr"  # see `aeent data list`
    config.data.root = ""  # the user's folder, for sets that are not generated
    config.data.cache_dir = ""  # prepared copies; "" is ~/.cache/aeent_jax
    config.data.image_size = 64  # pixels, a multiple of 16
    config.data.memory_budget_mb = 4096  # more: images stay in their files
    config.data.channels = 1  # 1 gray, 3 RGB
    config.data.window = ""  # "0,4095": black and white of wide images
    config.data.resize = "stretch"  # stretch, pad: images that are not square
    config.data.validation_fraction = 0.0  # of the training normals, held out

    config.model = group()
    config.model.latent_dim = 64  # size of the latent vector
    config.model.base_width = 16  # channels of the first block
    config.model.hidden_dim = 1024  # size of the linear layers
    config.model.depth = 1  # convolutions in a block
    config.model.memory_slots = 25  # memae
    config.model.shrink_threshold = 0.0025  # memae: addresses below are 0

    config.loss = group()  # what methods add to their reconstruction loss
    config.loss.kl_weight = 0.005  # vae: of the KL, in the mean over dimensions
    config.loss.address_weight = 2e-4  # memae: of the addresses' entropy
    config.loss.consistency_weight = 1.0  # constrained_ae: of z against z again
    config.loss.feature_weight = 1.0  # ganomaly: of the adversary's features
    config.loss.image_weight = 50.0  # ganomaly: of the squared error
    config.loss.latent_weight = 1.0  # ganomaly: of z against z again
    config.loss.vgg_weights = ""  # ae_perceptual: file; see its docstring
    config.loss.vgg_statistics = ""  # ae_perceptual: file; see its docstring

    config.corruption = group()  # of the input in training
    config.corruption.square_size = 10  # ceae: side in pixels, set to black
    config.corruption.noise_std = 0.2  # dae: coarse, for images in [0, 1]
    config.corruption.noise_size = 16  # dae: side of its grid
    config.corruption.foreground_only = False  # dae: none where x is black

    config.channel = group()
    config.channel.sigma = 1.0  # noise on the latent in training; 0: no channel
    config.channel.noise = "gaussian"  # gaussian, uniform: a quantiser's dither
    config.channel.normalisation = "none"  # none, power: divided by their rms

    config.entropy = group()
    config.entropy.estimator = "kde_loo"  # of entropy.ESTIMATORS or LEARNED
    config.entropy.weight = 5e-4  # of one nat beside the reconstruction loss
    config.entropy.bandwidth = "channel"  # = sigma; or a rule; or "0.5", say
    config.entropy.allow_unsound = False  # a weight without a channel, say
    config.entropy.queue_size = 0  # 0 alone: there is no queue any more
    config.entropy.controller = "fixed"  # schedule, target_{rate,distortion}
    config.entropy.target = 0.0  # of the rate in nats, or of the squared error
    config.entropy.controller_rate = 1e-2  # largest change of log weight a step
    config.entropy.warmup_epochs = 0  # schedule: linear, from 0 to the weight
    config.entropy.k = 3  # knn: which neighbour
    config.entropy.alpha = 2.0  # matrix_renyi: order of the entropy
    config.entropy.group = 1  # kde_marginal: dimensions at a time
    config.entropy.shrinkage = "oas"  # gaussian: oas, ledoit_wolf, none, "0.1"
    config.entropy.bias_correction = False  # gaussian: of a small sample
    config.entropy.spacing = 0  # vasicek; 0: by the number of rows
    config.entropy.num_bins = 32  # histogram: of each dimension
    config.entropy.miller_madow = False  # histogram: of a small sample
    config.entropy.components = 16  # mixture: Gaussians
    config.entropy.covariance = "diagonal"  # mixture: diagonal, full
    config.entropy.learning_rate = 1e-2  # Adam's, of a learned estimator

    config.optimizer = group()
    config.optimizer.learning_rate = 1e-3  # Adam's, at its largest
    config.optimizer.schedule = "constant"  # constant, cosine, linear
    config.optimizer.warmup_steps = 0  # linear, from 0
    config.optimizer.clip_norm = 0.0  # of the gradient; 0: no clipping

    config.compute = group()  # of encoder and decoder; the rest is in float32
    config.compute.dtype = "float32"  # bfloat16: of activations
    config.compute.matmul_precision = "default"  # high, highest

    config.train = group()
    config.train.epochs = 250  # passes over the training normals
    config.train.batch_size = 64  # images of one step, over all devices
    config.train.seed = 0  # of the weights, the order and the noise
    config.train.steps_per_call = 0  # steps in one call; 0: 1 on CPU, else 8
    config.train.microbatches = (
        1  # parts of a batch, one after another; see accumulation.py
    )

    config.eval = group()
    config.eval.score = ""  # of methods.SCORES; "": the method's own
    config.eval.every_epochs = 0  # in the course of training; 0: at the end
    config.eval.batch_size = 256  # images of one call, over all devices
    config.eval.num_resamples = 1000  # of the bootstrap intervals
    config.eval.diagnostic_latents = 1000  # at most, of each kind of image

    config.parallel = group()
    config.parallel.mode = "pmap"  # the only one
    config.parallel.num_devices = 0  # 0: all, and one a core on CPU

    config.checkpoint = group()
    config.checkpoint.every_steps = 500  # and at the end; 0: at the end alone
    config.checkpoint.keep = 2  # latest ones; the best by validation is extra
    config.checkpoint.restore_from = ""  # another run's weights to start from

    config.log = group()
    config.log.every_epochs = 1  # between lines of metrics.jsonl
    config.log.profile = ""  # start:stop, steps to trace into the workdir
    config.log.tensorboard = True  # events too, where tensorboardX is installed
    return config


def get_experiment(
    name: str, variant: str, epochs: int = 250
) -> ml_collections.ConfigDict:
    """Returns the reference's protocol on a data set.

    Args:
      name: of the data set.
      variant: as in `apply_variant`.
      epochs: the reference's, by default those of most sets.

    Raises:
      ValueError: another variant.
    """
    config = get_config()
    config.data.name = name
    config.train.epochs = epochs
    return apply_variant(config, variant)


def apply_variant(
    config: ml_collections.ConfigDict, variant: str
) -> ml_collections.ConfigDict:
    """Switches the entropy control of an experiment on or off.

    Args:
      config: changed in place.
      variant: "controlled" for the channel with `coding_rate` at weight 1e-3,
        fixed before any result was seen; "plain" for neither.

    Returns:
      The configuration.

    Raises:
      ValueError: another variant.
    """
    if variant == "controlled":
        config.entropy.estimator = "coding_rate"
        config.entropy.weight = 1e-3
    elif variant == "plain":
        config.channel.sigma = 0.0
        config.entropy.estimator = "none"
        config.entropy.weight = 0.0
    else:
        raise ValueError(
            f"the variant is {variant!r}, but must be controlled or plain."
        )
    return config
