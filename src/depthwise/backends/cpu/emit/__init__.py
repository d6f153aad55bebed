"""Plans become IR: each file opens with its loops in a few lines of Python, and writes them with `ir`."""
