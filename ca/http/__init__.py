"""The authority over HTTP: the authorities, the certificates that they issued, and what relying parties fetch."""
