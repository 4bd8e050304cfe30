"""For authors of plugins: a conformance suite to inherit from in tests, and the small models it runs on."""

from growkit.testing.conformance import PluginConformance
from growkit.testing.models import tiny_models

__all__ = ["PluginConformance", "tiny_models"]
