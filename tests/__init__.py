"""The tests. A package, so that `tests.…` is never somebody else's."""
