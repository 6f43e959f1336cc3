"""The version, read by the build and by `fairqued --version`."""

__version__ = "0.1.0"
