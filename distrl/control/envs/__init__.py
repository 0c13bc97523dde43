"""Vector backends, wrappers, environments and the environment checker."""
