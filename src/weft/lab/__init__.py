"""A pod network of several nodes on one machine: nodes are namespaces, pods are processes.

- ``topology``: names, addresses and settings, checked; pure.
- ``state``: what a lab consists of, in one file, written before anything is made.
- ``network``: namespaces and wires, with ``ip``.
- ``node``, ``pod``: the processes that a node and a pod are.
- ``attach``: attaches pods from inside a node, as a container runtime does.
- ``lifecycle``, ``pods``: up, down, run, rm.  ``check``: the proof.
"""
