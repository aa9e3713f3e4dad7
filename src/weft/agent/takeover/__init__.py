"""Taking a node over from Weave Net: what it left is looked at, a plan made or refused, the plan carried out.

``layout`` what is Weave's on a node, ``rules`` which of the firewall, ``planner`` the pure decision, ``looking``
reads the node, ``foreign`` the other nodes, ``carrying_out`` changes things, ``takeover`` puts them in order.
"""
