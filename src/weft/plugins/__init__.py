"""One module per plugin type, grouped as the field groups them (main, ipam, meta), all of one shape.

A plugin gets a request and speaks to the kernel; what it needs of the node beyond that (addresses, the
journal) is a protocol in its own module, which the agent fulfils.
"""

from weft.plugins.plugin import Plugin, PluginRequest

__all__ = ["Plugin", "PluginRequest"]
