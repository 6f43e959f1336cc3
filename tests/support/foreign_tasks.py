"""A task in a module that is in nobody's `imports`, though one that is imports it."""

from fairqued import task


@task
def foreign() -> None:
    """Must not be run (G14)."""
