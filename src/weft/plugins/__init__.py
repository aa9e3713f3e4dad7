"""CNI plugins: one module per plugin, all of one shape, in the groups of the reference plugins.

``main`` makes interfaces, ``ipam`` gives addresses, ``meta`` changes what others made. ``registry`` has the table
of all, ``plugin`` their shape, ``calls`` runs one. A plugin knows the specification and the kernel; what it needs
of a node it is handed.
"""

from weft.plugins.plugin import Lookup, Plugin, PluginRequest

__all__ = ["Lookup", "Plugin", "PluginRequest"]
