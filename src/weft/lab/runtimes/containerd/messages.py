"""CRI's messages, as many of them and as much of each as the lab speaks of.

Names and numbers are those of Kubernetes' ``runtime.v1`` (cri-api, ``pkg/apis/runtime/v1/api.proto``).
Enumerations are ``int32``, which is the same on the wire.
"""

from weft.lab.protobuf import Messages

#: PodSandboxState, ContainerState, NamespaceMode.
SANDBOX_READY = 0
CONTAINER_RUNNING = 1
NAMESPACE_OF_POD, NAMESPACE_OF_CONTAINER = 0, 1

_MESSAGES = {
    "VersionRequest": "string version=1",
    "VersionResponse": "string runtime_name=2, string runtime_version=3",
    "StatusRequest": "bool verbose=1",
    "StatusResponse": "RuntimeStatus status=1",
    "RuntimeStatus": "repeated RuntimeCondition conditions=1",
    "RuntimeCondition": "string type=1, bool status=2, string reason=3, string message=4",
    "PodSandboxMetadata": "string name=1, string uid=2, string namespace=3, uint32 attempt=4",
    "PodSandboxConfig": "PodSandboxMetadata metadata=1, string hostname=2, string log_directory=3, "
    "map labels=6, map annotations=7, LinuxPodSandboxConfig linux=8",
    "LinuxPodSandboxConfig": "string cgroup_parent=1, SecurityContext security_context=2",
    # LinuxSandboxSecurityContext has this field at 1, LinuxContainerSecurityContext at 3.
    "SecurityContext": "NamespaceOption namespace_options=1",
    "ContainerSecurityContext": "NamespaceOption namespace_options=3",
    "NamespaceOption": "int32 network=1, int32 pid=2, int32 ipc=3",
    "RunPodSandboxRequest": "PodSandboxConfig config=1, string runtime_handler=2",
    "RunPodSandboxResponse": "string pod_sandbox_id=1",
    "StopPodSandboxRequest": "string pod_sandbox_id=1",
    "StopPodSandboxResponse": "",
    "RemovePodSandboxRequest": "string pod_sandbox_id=1",
    "RemovePodSandboxResponse": "",
    "PodSandboxStatusRequest": "string pod_sandbox_id=1, bool verbose=2",
    "PodSandboxStatusResponse": "PodSandboxStatus status=1, map info=2",
    "PodSandboxStatus": "string id=1, PodSandboxMetadata metadata=2, int32 state=3, int64 created_at=4, "
    "PodSandboxNetworkStatus network=5, map labels=7",
    "PodSandboxNetworkStatus": "string ip=1, repeated PodIP additional_ips=2",
    "PodIP": "string ip=1",
    "ListPodSandboxRequest": "PodSandboxFilter filter=1",
    "PodSandboxFilter": "string id=1, map label_selector=3",
    "ListPodSandboxResponse": "repeated PodSandbox items=1",
    "PodSandbox": "string id=1, PodSandboxMetadata metadata=2, int32 state=3, int64 created_at=4, map labels=5",
    "ContainerMetadata": "string name=1, uint32 attempt=2",
    "ImageSpec": "string image=1",
    "Mount": "string container_path=1, string host_path=2, bool readonly=3",
    "LinuxContainerConfig": "ContainerSecurityContext security_context=2",
    "ContainerConfig": "ContainerMetadata metadata=1, ImageSpec image=2, repeated string command=3, "
    "repeated string args=4, string working_dir=5, repeated Mount mounts=7, map labels=9, string log_path=11, "
    "LinuxContainerConfig linux=15",
    "CreateContainerRequest": "string pod_sandbox_id=1, ContainerConfig config=2, "
    "PodSandboxConfig sandbox_config=3",
    "CreateContainerResponse": "string container_id=1",
    "StartContainerRequest": "string container_id=1",
    "StartContainerResponse": "",
    "ListContainersRequest": "ContainerFilter filter=1",
    "ContainerFilter": "string id=1, string pod_sandbox_id=3",
    "ListContainersResponse": "repeated Container containers=1",
    "Container": "string id=1, string pod_sandbox_id=2, ContainerMetadata metadata=3, int32 state=6",
    "ContainerStatusRequest": "string container_id=1, bool verbose=2",
    "ContainerStatusResponse": "ContainerStatus status=1, map info=2",
    "ContainerStatus": "string id=1, ContainerMetadata metadata=2, int32 state=3, int32 exit_code=7, "
    "string reason=10, string message=11",
    "ImageStatusRequest": "ImageSpec image=1",
    "ImageStatusResponse": "Image image=1",
    "Image": "string id=1",
}

#: The class of a message by its name.
message = Messages("runtime.v1", _MESSAGES)
