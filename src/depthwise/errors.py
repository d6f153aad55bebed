"""The one exception family of the package."""


class DepthwiseError(ValueError):
    """Something given to `depthwise` does not fit: the message says what was expected, what came, and what to do."""
