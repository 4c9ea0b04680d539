"""The small package that the course builds, piece by piece."""

__version__ = "0.1.0"
