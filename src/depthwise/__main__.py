"""`python -m depthwise` is the command `depthwise`."""

from .cli import main

if __name__ == "__main__":
    main()
