"""Networks shared by both domains: parameters, layers, heads."""
