"""The CNI specification, versions 0.1.0 to 1.1.0, as a typed library.

For plugins: ``Invocation`` and ``PluginConfiguration`` read a call, ``Result`` and ``CniError`` answer it,
``delegate`` calls another plugin. For runtimes: ``load_directory`` and ``find_network`` read networks,
``Runtime`` attaches containers to them.
"""

from weft.cni.configuration import NetworkList, PluginConfiguration, find_network, load_directory
from weft.cni.environment import Command, Invocation
from weft.cni.errors import CniError, ErrorCode
from weft.cni.execution import delegate, find_plugin
from weft.cni.results import Dns, Interface, IPConfiguration, Result, Route
from weft.cni.runtime import Attachment, Runtime

__all__ = [
    "Attachment",
    "CniError",
    "Command",
    "Dns",
    "ErrorCode",
    "IPConfiguration",
    "Interface",
    "Invocation",
    "NetworkList",
    "PluginConfiguration",
    "Result",
    "Route",
    "Runtime",
    "delegate",
    "find_network",
    "find_plugin",
    "load_directory",
]
