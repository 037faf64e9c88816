"""From a trained network to verdicts on new images.

`Detector` holds a network, the scores of held-out normals and all that a
verdict needs; `screen` screens files with it into a folder.
"""

from aeent_jax.screening.calibration import Calibration
from aeent_jax.screening.detector import Detector
from aeent_jax.screening.screen import Settings, screen

__all__ = ["Calibration", "Detector", "Settings", "screen"]
