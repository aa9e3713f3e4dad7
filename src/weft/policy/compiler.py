"""Objects to tables: keeps the state of one node's table and changes of it only what an event touches."""

from collections.abc import Iterable, Iterator
from functools import lru_cache

from weft.policy.chains import ChainCompiler, chain_name
from weft.policy.members import ADDRESS_TYPES, Members, NamedPorts, Peers, Placed, digest, version_of
from weft.policy.model import (
    EGRESS,
    INGRESS,
    Action,
    Dispatch,
    Field,
    Log,
    Match,
    Model,
    NotAStart,
    Rule,
    Set,
    Statement,
    Verdict,
    VerdictMap,
)
from weft.policy.objects import Direction, Key, Namespace, Pod, Policy
from weft.policy.parsing import namespace_of

#: The policies that isolate a pod in one direction.
Class = tuple[Direction, frozenset[Key]]
_MAPS = {Direction.EGRESS: "egress", Direction.INGRESS: "ingress"}
_DROP = Verdict(Action.DROP)


class Compiler:
    """The table of one node. Objects come and go; ``model`` is the table as it must be now.

    ``node`` is the name that this node's pods carry. ``log`` asks for a log statement before packets are dropped.
    """

    def __init__(self, node: str, *, log: bool = False) -> None:
        self._node = node
        self._log = log
        self.pods: dict[str, Pod] = {}
        self.namespaces: dict[str, Namespace] = {}
        self.policies: dict[Key, Policy] = {}
        self._pods_of: dict[str, set[str]] = {}
        self._policies_of: dict[str, set[Key]] = {}
        self._claims: dict[str, set[str]] = {}
        self._placed: dict[str, Placed] = {}
        self._members = Members(self._candidates)
        self._chains = ChainCompiler(self._members)
        # Per pod of this node its classes; per class its pods; per policy and direction the classes that have it.
        self._classes_of: dict[str, list[Class]] = {}
        self._sizes: dict[Class, int] = {}
        self._asked: dict[tuple[Direction, Key], int] = {}
        self._class_chains: dict[str, tuple[Statement, ...]] = {}
        self._by_chain: dict[str, Class] = {}
        self._maps: dict[str, dict[str, str]] = {}
        self._isolated: dict[int, set[str]] = {version: set() for version in ADDRESS_TYPES}
        self._pairs: dict[int, set[str]] = {version: set() for version in ADDRESS_TYPES}
        self._dirty_maps: set[str] = set()
        self._dirty_pods: set[str] = set()
        self._dirty_policies: set[tuple[Direction, Key]] = set()
        self._dirty_classes: set[Class] = set()
        self._model = Model()
        self._add_version(4)

    def put_namespace(self, namespace: Namespace) -> None:
        """A namespace is there, or its labels have changed."""
        if self.namespaces.get(namespace.name) != namespace:
            self._relabel(namespace.name, namespace)

    def remove_namespace(self, name: str) -> None:
        """A namespace is gone; pods that still name it have its name for a label."""
        if name in self.namespaces:
            self._relabel(name, None)

    def put_pod(self, pod: Pod) -> None:
        """A pod is there, or has changed. Of two with one address the newer has it."""
        present = self.pods.get(pod.uid)
        if present == pod:
            return
        for address in pod.addresses:
            self._add_version(version_of(address))
        addresses = {*pod.addresses, *(present.addresses if present else ())}
        affected = {pod.uid, *self._owners(addresses)}
        for uid in affected:
            self._withdraw(uid)
        if present is not None:
            self._forget(present)
        self.pods[pod.uid] = pod
        self._pods_of.setdefault(pod.namespace, set()).add(pod.uid)
        for address in pod.addresses if pod.counts else ():
            self._claims.setdefault(address, set()).add(pod.uid)
        for uid in affected | self._owners(addresses):
            self._place(uid)

    def remove_pod(self, uid: str) -> None:
        """A pod is gone; another that claims its address has it now."""
        present = self.pods.get(uid)
        if present is None:
            return
        self._withdraw(uid)
        self._forget(present)
        for other in self._owners(present.addresses):
            self._place(other)

    def put_policy(self, policy: Policy) -> None:
        """A policy is there, or has changed."""
        before = self.policies.get(policy.key)
        if before == policy:
            return
        self.policies[policy.key] = policy
        self._policies_of.setdefault(policy.namespace, set()).add(policy.key)
        self._dirty_policies.update((direction, policy.key) for direction in Direction)
        self._reselect(policy, before)

    def remove_policy(self, key: Key) -> None:
        """A policy is gone."""
        policy = self.policies.pop(key, None)
        if policy is not None:
            self._policies_of[policy.namespace].discard(key)
            self._reselect(policy)

    def owner(self, address: str) -> Pod | None:
        """The pod that an address belongs to."""
        for uid in self._owners([address]):
            return self.pods[uid]
        return None

    def is_local(self, pod: Pod) -> bool:
        """Whether this node enforces the pod's policies."""
        return pod.node == self._node

    def policies_of_class(self, chain: str) -> frozenset[Key]:
        """The policies that isolate the pods of a class, by its chain's name."""
        found = self._by_chain.get(chain)
        return found[1] if found else frozenset()

    def model(self) -> Model:
        """The table as it must be now. Sets and chains that have not changed are the same objects as before."""
        self._compile_chains()
        sets, maps = dict(self._model.sets), dict(self._model.maps)
        for name in self._dirty_maps:
            maps[name] = VerdictMap(ADDRESS_TYPES[int(name[-1])], dict(self._maps[name]))
        for version in {int(name[-1]) for name in self._dirty_maps}:
            kind = ADDRESS_TYPES[version]
            sets[f"isolated{version}"] = Set(kind, frozenset(self._isolated[version]))
            sets[f"self{version}"] = Set(f"{kind} . {kind}", frozenset(self._pairs[version]))
        self._dirty_maps.clear()
        for name, members in {**self._members.changes(), **self._chains.changes()}.items():
            if members is not None:
                sets[name] = members
            else:
                sets.pop(name, None)
        chains = {**self._base_chains, **self._chains.chains, **self._class_chains}
        counters = frozenset([*self._chains.chains, *self._class_chains])
        self._model = Model(sets, maps, chains, counters)
        return self._model

    def _compile_chains(self) -> None:
        for uid in self._dirty_pods:
            self._declassify(self._placed[uid])
            self._classify(self._placed[uid])
        self._dirty_pods.clear()
        for direction, key in self._dirty_policies:
            if self._asked.get((direction, key)) and key in self.policies:
                self._chains.compile(self.policies[key], direction)
            else:
                self._chains.remove(direction, key)
        for found in self._dirty_classes:
            name = _class_chain(found)
            if self._sizes.get(found):
                self._by_chain[name] = found
                self._class_chains[name] = self._class_statements(name, found)
            else:
                self._by_chain.pop(name, None)
                self._class_chains.pop(name, None)
        self._dirty_policies.clear()
        self._dirty_classes.clear()

    def _class_statements(self, name: str, found: Class) -> tuple[Statement, ...]:
        direction, keys = found
        jumps = [Rule((), Verdict(Action.JUMP, chain_name(direction, key))) for key in sorted(keys)]
        return (*jumps, *([Log(name)] if self._log else []), Rule((), _DROP, name))

    def _add_version(self, version: int) -> None:
        """The first address of an IP version brings its maps, and its sets into every chain."""
        if f"egress{version}" in self._maps:
            return
        for kind in _MAPS.values():
            self._maps[f"{kind}{version}"] = {}
            self._dirty_maps.add(f"{kind}{version}")
        versions = tuple(sorted({int(name[-1]) for name in self._maps}))
        self._base_chains = _base_chains(versions)
        self._members.use_versions(versions)
        self._chains.use_versions(versions)
        self._dirty_policies.update(self._asked)

    def _candidates(self, key: Peers | NamedPorts) -> Iterable[Placed]:
        """Pods that may be in a set; whether they are is still to be looked at."""
        if isinstance(key, NamedPorts):
            return self._placed.values()
        if key.namespaces is None:
            names = [key.namespace]
        else:
            names = [name for name in self._pods_of if key.namespaces.matches(self._namespace(name).labels)]
        uids = (uid for name in names for uid in self._pods_of.get(name, ()))
        return (self._placed[uid] for uid in uids if uid in self._placed)

    def _namespace(self, name: str) -> Namespace:
        return self.namespaces.get(name) or namespace_of(name)

    def _relabel(self, name: str, namespace: Namespace | None) -> None:
        uids = [uid for uid in self._pods_of.get(name, ()) if uid in self._placed]
        for uid in uids:
            self._withdraw(uid)
        if namespace is None:
            del self.namespaces[name]
        else:
            self.namespaces[name] = namespace
        for uid in uids:
            self._place(uid)

    def _owners(self, addresses: Iterable[str]) -> set[str]:
        """Who has the addresses: of each the newest pod that claims it."""
        claims = (self._claims.get(address) for address in addresses)
        return {max(uids, key=lambda uid: (self.pods[uid].created, uid)) for uids in claims if uids}

    def _forget(self, pod: Pod) -> None:
        del self.pods[pod.uid]
        self._pods_of[pod.namespace].discard(pod.uid)
        if not self._pods_of[pod.namespace]:
            del self._pods_of[pod.namespace]
        for address in pod.addresses if pod.counts else ():
            self._claims[address].discard(pod.uid)
            if not self._claims[address]:
                del self._claims[address]

    def _place(self, uid: str) -> None:
        """Put the addresses that are the pod's own into all the sets they belong to."""
        pod = self.pods[uid]
        self._withdraw(uid)
        addresses = tuple(address for address in pod.addresses if uid in self._owners([address]))
        if not addresses or not pod.counts:
            return
        placed = Placed(pod, self._namespace(pod.namespace).labels, addresses)
        self._placed[uid] = placed
        self._members.place(placed)
        if self.is_local(pod):
            self._dirty_pods.add(uid)

    def _withdraw(self, uid: str) -> None:
        placed = self._placed.pop(uid, None)
        if placed is not None:
            self._members.withdraw(placed)
            self._declassify(placed)
            self._dirty_pods.discard(uid)

    def _reselect(self, policy: Policy, before: Policy | None = None) -> None:
        """The pods of this node that a policy selects, or did, may be in other classes now."""
        for uid in self._pods_of.get(policy.namespace, ()):
            placed = self._placed.get(uid)
            if placed is None or not self.is_local(placed.pod):
                continue
            labels = placed.pod.labels
            if placed.pod.unknown or any(item.selector.matches(labels) for item in (policy, before) if item):
                self._dirty_pods.add(uid)

    def _classify(self, placed: Placed) -> None:
        pod, found = placed.pod, []
        selecting = [
            policy
            for policy in map(self.policies.__getitem__, self._policies_of.get(pod.namespace, ()))
            if pod.unknown or policy.selector.matches(pod.labels)
        ]
        for direction in Direction:
            keys = frozenset(policy.key for policy in selecting if policy.rules(direction) is not None)
            if keys:
                # Nothing is allowed to a pod whose labels nobody has told: a class of no policies drops it all.
                found.append((direction, frozenset() if pod.unknown else keys))
        self._classes_of[pod.uid] = found
        if found:
            for version, addresses, pairs in _by_version(placed):
                self._isolated[version] |= addresses
                self._pairs[version] |= pairs
        for each in found:
            direction, keys = each
            self._sizes[each] = self._sizes.get(each, 0) + 1
            if self._sizes[each] == 1:
                self._dirty_classes.add(each)
                for key in keys:
                    self._asked[direction, key] = self._asked.get((direction, key), 0) + 1
                    self._dirty_policies.add((direction, key))
            for address in placed.addresses:
                name = f"{_MAPS[direction]}{version_of(address)}"
                self._maps[name][address] = _class_chain(each)
                self._dirty_maps.add(name)

    def _declassify(self, placed: Placed) -> None:
        for version, addresses, pairs in _by_version(placed):
            self._isolated[version] -= addresses
            self._pairs[version] -= pairs
        for each in self._classes_of.pop(placed.pod.uid, ()):
            direction, keys = each
            self._sizes[each] -= 1
            if not self._sizes[each]:
                del self._sizes[each]
                self._dirty_classes.add(each)
                for key in keys:
                    self._asked[direction, key] -= 1
                    if not self._asked[direction, key]:
                        del self._asked[direction, key]
                        self._dirty_policies.add((direction, key))
            for address in placed.addresses:
                name = f"{_MAPS[direction]}{version_of(address)}"
                del self._maps[name][address]
                self._dirty_maps.add(name)


def _by_version(placed: Placed) -> Iterator[tuple[int, set[str], set[str]]]:
    """Per IP version a pod's addresses, and each with each: what it sends to itself."""
    for version in ADDRESS_TYPES:
        own = {address for address in placed.addresses if version_of(address) == version}
        if own:
            yield version, own, {f"{one} . {other}" for one in own for other in own}


@lru_cache(maxsize=4096)
def _class_chain(found: Class) -> str:
    direction, keys = found
    return f"deny/{direction}/{digest(sorted(keys)) if keys else 'unknown'}"


def _base_chains(versions: tuple[int, ...]) -> dict[str, tuple[Statement, ...]]:
    accept = Verdict(Action.ACCEPT)
    both = (Field.SOURCE, Field.DESTINATION)
    return {
        EGRESS: (
            *(Rule((Match(both, f"self{version}", version),), accept) for version in versions),
            *(NotAStart(side, f"isolated{version}", version) for version in versions for side in both),
            *(Dispatch(Field.SOURCE, f"egress{version}", version) for version in versions),
            Rule((), Verdict(Action.GOTO, INGRESS)),
        ),
        INGRESS: (
            *(Dispatch(Field.DESTINATION, f"ingress{version}", version) for version in versions),
            Rule((), accept),
        ),
    }
