"""The package's version, which its metadata takes from here."""

__version__ = "0.1.0"
