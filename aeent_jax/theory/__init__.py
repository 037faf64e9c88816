"""The theory of the paper as statements that can be run, in nats.

X are images, Z latents, `Z~ = Z + sigma*eps` what the decoder reads, `X^` the
reconstruction, and `D(R)` the least mean squared error of any code that passes
at most R nats, `inf E|X - X^|^2` over all `I(X; X^) <= R`.

*Proposition 1.* `E|X - X^|^2 >= D(I(X; Z~))`. Proof: `X - Z - Z~ - X^` is a
Markov chain, so `I(X; X^) <= I(X; Z~)`; D falls with R, and is by definition
the least error at that information. For a Gaussian X it is
`gaussian_distortion_rate`; for any other X of that covariance it is at most
this.

*Proposition 2.* Let Y tell normal from abnormal images. (a) Proposition 1 holds
for each kind by itself: an abnormal error as small as the normal one, delta,
needs `I(X; Z~ | abnormal) >= R_a(delta)`, with R_a the inverse of the abnormal
images' D. (b) `I(X; Z~) = sum_y w_y I(X; Z~ | y) + I(Y; Z~)`, the chain rule.
(c) Through the linear code that is optimal for normal images at R nats the
abnormal error exceeds the normal one by
`sum_i min(1, level/v_i)^2 (m_i - v_i)`, see `linear_code_error`: where no
direction has less energy in abnormal images, it never rises with R.

They are in our terms what Cai, Chen and Cheng (MICCAI 2024, arXiv 2403.09303)
state of the entropy H(Z) of noiseless latents: that it must be at least H(X_n)
for normal images to be reconstructed, and no more for abnormal ones not to be.
H(Z) of continuous latents is infinite, hence the channel; nothing here is
quoted from the paper. Training bounds `I(X; Z~ | normal)` alone: that abnormal
images pass no more is an observation, not a theorem.
"""

from aeent_jax.theory.gaussian import (
    LinearCode,
    gaussian_distortion_rate,
    gaussian_rate_distortion,
    linear_code_error,
    optimal_linear_code,
)
from aeent_jax.theory.measuring import (
    compare_errors,
    measure,
    measure_linear_code,
)
from aeent_jax.theory.results import make_folder, write_results

__all__ = [
    "LinearCode",
    "compare_errors",
    "gaussian_distortion_rate",
    "gaussian_rate_distortion",
    "linear_code_error",
    "make_folder",
    "measure",
    "measure_linear_code",
    "optimal_linear_code",
    "write_results",
]
