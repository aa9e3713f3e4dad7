"""Pods that are a network namespace with one small process, attached by Weft's own CNI library."""
