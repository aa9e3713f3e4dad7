"""The policy controller of a node: keeps the kernel's table as pods, namespaces and policies are.

- ``source``: where objects come from.  ``folder``: a folder of manifests.
- ``controller``: objects and attachments in, the table out.  ``table``: what is in the kernel.
- ``admissions``: the pods that were attached here.  ``gate``: no ADD returns before its policies are in force.
- ``flows``: cuts connections that are no longer allowed.  ``drops``: tells what was dropped.
- ``service``: all of it, in the agent or in a process of its own (``weft npc``: ``daemon``, ``settings``).
- ``server``, ``client``: its socket.  ``answers``: what people ask.  ``metrics``: counters.
"""
