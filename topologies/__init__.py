"""Topologies that ship with streamproc: they use nothing but its public names."""
