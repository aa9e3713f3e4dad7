"""Weft: a pod network for Kubernetes and every CNI runtime."""

__version__ = "0.1.0"
