"""Kafka's feed of the reaction plane: faust-streaming agents. Only this folder imports faust."""

from connectors.faust.feed import FaustFeed

__all__ = ["FaustFeed"]
