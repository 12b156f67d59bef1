"""Comparison with PyTorch: `python -m ddjax.benchmark --against=torch`.

Independent modules of the same architectures, as one would write them in PyTorch, with the weights
of ours. Only `ddjax.benchmark` imports this package, and only when it is asked to.
"""
