"""The plugins that come with growkit: one package per method, each found through its own entry point."""
