"""`python -m bench` is the CPU comparison."""

from bench.cpu import main

if __name__ == "__main__":
    raise SystemExit(main())
