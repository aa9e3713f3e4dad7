"""Pods that are sandboxes of a real containerd, one on each node, made through CRI as a kubelet makes them.

containerd's own library calls the network's plugins: the configuration in the node's ``/etc/cni/net.d``, the
executables in its ``/opt/cni/bin``.

- ``messages``, ``cri``: what CRI says on the wire, and a client of it.
- ``daemon``: containerd as a node has it.  ``image``: what sandboxes and containers are made from.
- ``pod_config``: a pod of the lab in CRI's words; pure.
- ``runtime``: what the lab does with these.
"""
