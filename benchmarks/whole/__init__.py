"""Whole networks through `optimize`, beside PyTorch and the inference engines."""
