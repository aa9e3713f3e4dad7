"""The CNI specification, versions 0.1.0 to 1.1.0, as a typed library.

For plugins: ``plugin_main`` is the whole executable around a few functions; ``Invocation`` and
``PluginConfiguration`` read a call, ``Result`` and ``CniError`` answer it, ``delegate`` calls another plugin.
For runtimes: ``load_directory`` and ``find_network`` read networks, ``Runtime`` attaches containers to them, with
``CapabilityArgs`` and ``PodArguments`` for what it knows of a container.
"""

from weft.cni.arguments import PodArguments, format_arguments
from weft.cni.capabilities import Bandwidth, CapabilityArgs, IPRange, PortMapping, RuntimeDns
from weft.cni.configuration import NetworkList, PluginConfiguration, find_network, load_directory
from weft.cni.environment import Command, Invocation
from weft.cni.errors import CniError, ErrorCode
from weft.cni.execution import delegate, find_plugin
from weft.cni.results import Dns, Interface, IPConfiguration, Result, Route
from weft.cni.runtime import Attachment, Runtime
from weft.cni.serving import Call, plugin_main

__all__ = [
    "Attachment",
    "Bandwidth",
    "Call",
    "CapabilityArgs",
    "CniError",
    "Command",
    "Dns",
    "ErrorCode",
    "IPConfiguration",
    "IPRange",
    "Interface",
    "Invocation",
    "NetworkList",
    "PluginConfiguration",
    "PodArguments",
    "PortMapping",
    "Result",
    "Route",
    "Runtime",
    "RuntimeDns",
    "delegate",
    "find_network",
    "find_plugin",
    "format_arguments",
    "load_directory",
    "plugin_main",
]
