"""A lab with an API server: what a cluster's control plane and kubelets do, as much of it as a pod network meets.

``access``         certificate and kubeconfig
``control_plane``  the API server as a process of the lab
``manifests``      nodes and pods as Kubernetes has them
``daemonsets``     the DaemonSet controller
``admission``      what a lab cannot have or does nothing with
``scheduler``      a node for each pod that has none
``kubelet``        a node's: says how it is, runs the pods that use its network, such as a DaemonSet's
``lab_pods``       what kubelets do for pods of a network of their own, which are the lab's
``pod_worker``     one such pod; ``container_spec``, ``volumes``, ``images``, ``containers``: what it is made of
``objects``        keeps the server's objects as the lab is
"""
