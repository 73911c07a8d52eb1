"""Network addresses, TLS, back-off, and calls that can be abandoned."""
