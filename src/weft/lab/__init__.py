"""A pod network of several nodes on one machine: nodes are namespaces, pods are what the lab's runtime makes.

- ``topology``: names, addresses and settings, checked; pure.
- ``state``: what a lab consists of, in one file, written before anything is made.
- ``network``: namespaces and wires, with ``ip``.
- ``node``, ``pod``: the processes that a node and a pod are.
- ``supervisor``, ``service``: what is started again when it dies; the lab's own processes.
- ``nodes``: nodes from outside: started, waited for, entered.
- ``runtimes``: what pods run in, a folder for each.
- ``lifecycle``, ``pods``: up, down, run, rm.  ``check``: the proof.
"""
