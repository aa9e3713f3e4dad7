"""NetworkPolicy (networking.k8s.io/v1) as nftables tables. Pure: no file, no socket, nothing else of ours.

- ``objects``: pods, namespaces, policies and selectors, checked.  ``parsing``: from Kubernetes' JSON.
- ``compiler``: objects to ``model``, the sets, maps and chains of one table.  ``ranges``: address intervals.
- ``rendering``: the difference of two models as nftables commands.  ``reading``: a table that nft listed.
- ``oracle``: decides a flow straight from the Kubernetes definition.  ``evaluation``: decides it from a model.
- ``explanation``: names the policies and rules that decide a flow.
"""
