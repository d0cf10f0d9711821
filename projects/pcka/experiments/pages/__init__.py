"""Pages: finished runs on one HTML page that needs no network."""
