"""A storm of ADDs and DELs on real agents over three members of etcd, while agents and members fail."""
