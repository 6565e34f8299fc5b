"""A gift shop on the web: orders, returns and stock movements of real customers."""

from topologies.retail.topology import retail

__all__ = ["retail"]
