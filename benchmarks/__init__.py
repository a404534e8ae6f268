"""Measurements that are run by hand, from a clone's root: `python -m benchmarks NAME`."""
