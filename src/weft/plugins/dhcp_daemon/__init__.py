"""The daemon behind the IPAM plugin ``dhcp``: it gets leases for pods and keeps them.

``gob`` and ``rpc`` are what plugin and daemon speak, the reference plugin's protocol; ``keys`` the configuration,
``journal`` what outlives the daemon, ``sockets`` and ``tenancy`` one pod's lease, ``daemon`` the loop over all of
them, ``command`` its command line. The protocol towards the servers is ``weft.dhcp``.
"""
