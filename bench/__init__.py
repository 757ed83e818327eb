"""Benchmarks: `python -m bench` on the CPU against PyTorch, `python -m bench.gpu` on a GPU."""
