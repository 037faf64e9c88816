"""When things happen in a run: a pure function of the step."""

import dataclasses

from aeent_jax.data import batches


@dataclasses.dataclass(frozen=True)
class StepSchedule:
    """Says at which steps things happen.

    Attributes:
      num_examples: size of the training split.
      batch_size: images of a full batch.
      epochs: passes over the split.
      steps_per_call: steps in one call of the device.
      checkpoint_every: steps between checkpoints; 0 means the end alone.
    """

    num_examples: int
    batch_size: int
    epochs: int
    steps_per_call: int
    checkpoint_every: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch."""
        return batches.steps_per_epoch(self.num_examples, self.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    def steps_from(self, step: int) -> int:
        """How many steps the call that begins at `step` does.

        Calls end at the ends of epochs, at checkpoints and, counted from the
        beginning of the epoch, at multiples of `steps_per_call`, so a resumed
        run groups its steps as before.
        """
        size, every = self.steps_per_call, self.checkpoint_every
        done = step % self.steps_per_epoch
        room = min(self.steps_per_epoch - done, size - done % size)
        if every:
            room = min(room, every - step % every)
        return size if room == size else 1

    def ends_epoch(self, step: int) -> bool:
        """Whether `step` steps are whole epochs."""
        return step % self.steps_per_epoch == 0

    def pauses(self, step: int) -> bool:
        """Whether the host has something to do after `step` steps."""
        return self.ends_epoch(step) or self.saves(step)

    def saves(self, step: int) -> bool:
        """Whether the state is saved after `step` steps."""
        every = self.checkpoint_every
        return step == self.total_steps or bool(every and step % every == 0)
