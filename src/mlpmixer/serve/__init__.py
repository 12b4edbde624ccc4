"""The HTTP service: `mixer serve`."""
