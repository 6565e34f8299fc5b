"""A schema registry with Confluent's REST interface: client, registry port, and the way contracts get in."""

from connectors.confluent_registry.cache import SchemaCache
from connectors.confluent_registry.client import RegistryAccess, RegistryClient
from connectors.confluent_registry.push import Pushed, push_contracts
from connectors.confluent_registry.registry import ConfluentRegistry

__all__ = ["ConfluentRegistry", "Pushed", "RegistryAccess", "RegistryClient", "SchemaCache", "push_contracts"]
