"""How packets get from node to node: pure plans, one module per mode.

``plan`` holds what every mode is told (this node, its peers) and what it answers (devices, routes,
neighbours, forwarding entries); ``weave`` is the default mode.
"""
