"""The flags by which a process joins others; see `aeent_jax.hosts`."""

from absl import flags

from aeent_jax.cli import program

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where several processes meet."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes train together."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Which of them this is, from 0."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Read all three from the TPU pod, Slurm, and so on."
)
_JOIN_SECONDS = flags.DEFINE_integer(
    "join_seconds", 300, "How long to wait for all processes."
)


def configure_jax() -> None:
    """As `program.configure_jax`, and joins the processes that flags name."""
    program.configure_jax(_join)


def _join() -> None:
    from aeent_jax.runtime import hosts

    hosts.join(
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        detect=_DISTRIBUTED.value,
        timeout=_JOIN_SECONDS.value,
    )
