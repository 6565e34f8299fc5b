"""A gift shop on the web: one business, five processes that share no key, and one topology over all of them."""

from topologies.retail.topology import retail

__all__ = ["retail"]
