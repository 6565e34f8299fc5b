"""What each customer of the gift shop has been worth so far, from four processes that know nothing of each other."""

from topologies.customer_value.topology import customer_value

__all__ = ["customer_value"]
