"""A Kubernetes API server for labs and tests: objects in memory, all else as the real one does it over HTTP.

What clients rely on is there: resource versions and conflicts, lists in chunks, watches with bookmarks that resume
and that end with 410 Gone, patches, selectors, tables for kubectl. What a cluster does with the objects is not:
no controllers, no scheduler, no admission, no defaults beyond metadata.

``kinds``      the resources it knows
``storage``    objects, versions, history
``journal``    the objects on disk
``selectors``  label and field selectors
``protobuf``   objects as kubectl create sends them
``patches``    merge, strategic merge and JSON patches
``tables``     what ``kubectl get`` prints
``discovery``  what it says about itself
``deletion``   what a DELETE leaves to kubelets
``exchange``   one request and its answer; ``handler``: what is done for it
``pod_access`` what a kubelet serves, asked for by ``pod_requests``: ``logs``, ``remote_command``
``server``     the server as a whole
"""

from weft.lab.api.exchange import Faults
from weft.lab.api.server import ApiServer

__all__ = ["ApiServer", "Faults"]
