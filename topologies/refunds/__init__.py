"""A gift shop on the web: orders, returns and stock movements of real customers."""

from topologies.refunds.topology import refunds

__all__ = ["refunds"]
