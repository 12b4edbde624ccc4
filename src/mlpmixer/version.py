"""The version of the package, which every room may ask."""

__version__ = "0.2.0"
