"""The node agent: serves the launcher, keeps the journal, wires decisions to the kernel."""
