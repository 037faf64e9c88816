"""A closed table, the one way in which something is chosen by name."""


class Table(dict):
    """A closed table that says what it holds when asked for something else."""

    def __missing__(self, name: str):
        raise ValueError(
            f"The estimator's name is {name!r}, and one of {sorted(self)} is"
            " needed: check the spelling."
        )
