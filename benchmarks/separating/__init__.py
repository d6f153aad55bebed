"""What `separate_` keeps of networks trained on Fashion-MNIST, beside its baselines: `python -m benchmarks.separating`.

Each command does one bounded step and writes what it found; a run that was cut off goes on from there.
"""
