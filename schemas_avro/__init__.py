"""The contracts that ship with the package, and their ids."""
