"""Measurements that take minutes: each a module with a main, run by `make bench`."""
