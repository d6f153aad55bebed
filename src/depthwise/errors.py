"""The one exception family of the package."""


class DepthwiseError(ValueError):
    """Something given to `depthwise` does not fit: the message says what was expected, what came, and what to do."""


def said(error: BaseException) -> str:
    r"""What an error of somebody else's says, in one line: its type and its text, without the insides of torch.

    >>> said(RuntimeError("two\nlines"))
    'RuntimeError: two lines'
    """
    text = " ".join(str(error).partition("Exception raised from ")[0].split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
