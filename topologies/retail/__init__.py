"""A gift shop on the web: orders, returns and stock movements of real customers."""
