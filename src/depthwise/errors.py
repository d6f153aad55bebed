"""The one exception family of the package."""


class DepthwiseError(ValueError):
    """Something given to `depthwise` does not fit: the message says what was expected, what came, and what to do."""


def shown(value: object) -> str:
    """A value that came, in a few words: as Python writes it where that is short, or else its type.

    >>> shown((3, "x")), shown([[1.5] * 100] * 100)
    ("(3, 'x')", 'a list')
    """
    # The repr of somebody else's object may raise anything, and that of a number with more digits than Python writes.
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001
        text = ""
    return text if 0 < len(text) <= 100 else f"a {type(value).__name__}"


def said(error: BaseException) -> str:
    r"""What an error of somebody else's says, in one line: its type and its text, without the insides of torch.

    >>> said(RuntimeError("two\nlines"))
    'RuntimeError: two lines'
    """
    text = " ".join(str(error).partition("Exception raised from ")[0].split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
